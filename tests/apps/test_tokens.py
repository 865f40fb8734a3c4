"""`cutaway tokens`: the notebook's ids from OPT's own vocabulary, and the same on a small one that is built here."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from .conftest import Run

OPT_FILES = Path(__file__).parents[2].parent / "shared" / "opt-tokenizer"
OPT_CONFIG = {"model_type": "opt", "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
PAIR = ("I like Machine Learning", "The sun rises in the east")


@pytest.fixture(scope="module")
def opt_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What facebook/opt-1.3b has beside its weights."""
    if not OPT_FILES.is_dir():
        pytest.skip(f"{OPT_FILES.name} is not beside this checkout")
    folder = Path(shutil.copytree(OPT_FILES, tmp_path_factory.mktemp("opt") / "opt-1.3b"))
    (folder / "config.json").write_text(json.dumps(OPT_CONFIG))
    return folder


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same three files with twelve tokens: letters of "a cat sat", four merges, BOS 2 and padding 1."""
    folder = tmp_path_factory.mktemp("small")
    tokens = ["<unk>", "<pad>", "</s>", "a", "c", "s", "t", "Ġ", "at", "Ġc", "Ġs", "Ġcat", "Ġsat"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\na t\nĠ c\nĠ s\nĠc at\nĠs at\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(OPT_CONFIG | {"max_position_embeddings": 8}))
    return folder


def test_the_notebooks_ids(cutaway: Run, opt_folder: Path):
    text = "The quick brown fox jumps over the lazy dog"
    done = cutaway("tokens", text, "--model", opt_folder, "--json")
    data = json.loads(done.out)
    assert done.code == 0 and done.err == ""
    assert data["ids"] == [[2, 133, 2119, 6219, 23602, 13855, 81, 5, 22414, 2335]]
    assert data["mask"] == [[1] * 10]


def test_the_notebooks_padded_pair(cutaway: Run, opt_folder: Path):
    data = json.loads(cutaway("tokens", *PAIR, "--model", opt_folder, "--json").out)
    assert data["ids"] == [[2, 100, 101, 14969, 13807, 1, 1], [2, 133, 3778, 10185, 11, 5, 3017]]
    assert data["mask"] == [[1, 1, 1, 1, 1, 0, 0], [1] * 7]


def test_bos_ids_padding_and_mask_of_a_small_vocabulary(cutaway: Run, small_folder: Path):
    data = json.loads(cutaway("tokens", "a cat sat", "a", "--model", small_folder, "--json").out)
    assert data["ids"] == [[2, 3, 11, 12], [2, 3, 1, 1]]
    assert data["mask"] == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert data["positions"] == [[0, 1, 2, 3], [0, 1, -1, -1]]
    assert [piece["visible"] for piece in data["pieces"][0]] == ["⟨</s>⟩", "a", "␣cat", "␣sat"]


def test_padding_on_the_left(cutaway: Run, small_folder: Path):
    data = json.loads(cutaway("tokens", "a cat", "a", "--padding-side", "left", "--model", small_folder, "--json").out)
    assert data["ids"] == [[2, 3, 11], [1, 2, 3]] and data["mask"] == [[1, 1, 1], [0, 1, 1]]


def test_the_table_fits_the_terminal(cutaway: Run, tiny_folder: Path):
    done = cutaway("tokens", "the cat sat on the mat " * 4, "🙂", "--model", tiny_folder)
    assert done.code == 0 and "text 1 of 2" in done.out and "position" in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_a_wrong_side_is_refused(cutaway: Run, small_folder: Path):
    done = cutaway("tokens", "a", "--padding-side", "top", "--model", small_folder)
    assert done == (2, "", "cutaway: found --padding-side top; expected right or left; pass one of the two.\n")


def test_a_text_longer_than_the_context_without_any_weights(cutaway: Run, small_folder: Path):
    done = cutaway("tokens", "a cat sat cat sat cat sat cat sat", "--model", small_folder)
    expected = "cutaway: found a text of 10 tokens; expected at most 8, the model's context; shorten the text.\n"
    assert done == (2, "", expected)


def test_text_from_standard_input(cutaway: Run, small_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a cat\n")))
    data = json.loads(cutaway("tokens", "-", "a", "--model", small_folder, "--json").out)
    assert data["ids"] == [[2, 3, 11], [2, 3, 1]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"", "found an empty standard input; expected a text; pipe one in, or pass it in place of the -."),
        (b"\n", "found an empty standard input; expected a text; pipe one in, or pass it in place of the -."),
        (b"a\xff", "found standard input that is no UTF-8 (byte 1); expected text in UTF-8; "
                   "convert it first, for example with iconv."),
    ],
)  # fmt: skip
def test_standard_input_without_a_text(cutaway: Run, monkeypatch: pytest.MonkeyPatch, given: bytes, said: str):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert cutaway("tokens", "-") == (2, "", f"cutaway: {said}\n")


def test_standard_input_is_read_once(cutaway: Run):
    done = cutaway("tokens", "-", "-")
    assert done.code == 2 and 'found "-" more than once' in done.err
