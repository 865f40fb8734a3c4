"""Every notebook runs from top to bottom without an error or a warning, is small, and shows no path of a machine.

decoder_tour is also walked on a random OPT with OPT's vocabulary, against the figures of facebook/opt-1.3b.
"""

import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import torch
from matplotlib import pyplot
from nbformat import NotebookNode
from torch import Tensor

from cutaway import LM
from tests.examples.notebooks import NOTEBOOKS, code, executed, outputs, read
from tests.parity.real import file
from tests.parity.test_opt_1_3b import VOCABULARY, as_on_the_hub

MOST = 500_000  # bytes
A_PATH = re.compile(r"/(home|root|Users|tmp|work|content|opt|usr|var|mnt|private)/\w|[A-Z]:\\\\|site-packages")
EVERY = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def texts(notebook: NotebookNode) -> Iterator[str]:
    """What its outputs show, but for pictures."""
    for output in outputs(notebook):
        yield output.get("text", "")
        yield from (value for kind, value in output.get("data", {}).items() if not kind.startswith("image/"))


def unclean(notebook: NotebookNode) -> list[str]:
    """What no reader should see: errors, what was written to stderr, warnings, paths."""
    wrong = [str(output)[:300] for output in outputs(notebook) if output.output_type == "error"]
    wrong += [output.text for output in outputs(notebook) if output.get("name") == "stderr"]
    return wrong + [text[:300] for text in texts(notebook) if "Warning" in text or A_PATH.search(text)]


def test_the_five_are_there():
    expected = {"decoder_tour", "eight_bits", "ioi_patching", "sampling", "steering"}
    assert {path.stem for path in NOTEBOOKS} == expected


@EVERY
def test_as_stored(path: Path):
    notebook = read(path)
    assert path.stat().st_size < MOST
    assert unclean(notebook) == []
    shown = [cell for cell in notebook.cells if "print(" in cell.source or ".plot()" in cell.source]
    assert shown and all(cell.outputs for cell in shown if cell.cell_type == "code")
    assert "pip install" in next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert all("execution" not in cell.metadata for cell in notebook.cells)  # its times


@pytest.mark.real
@pytest.mark.xdist_group("real")
@EVERY
def test_runs(path: Path):
    file()  # skips where the model cannot be fetched
    fresh = executed(path)
    assert unclean(fresh) == []
    assert len(list(texts(fresh))) == len(list(texts(read(path))))  # what is stored is of these cells


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """decoder_tour's names after a run on a random OPT of opt-1.3b's widths; "printed": what each cell printed."""
    if not VOCABULARY.is_dir():
        pytest.skip("needs OPT's vocabulary in ../shared/opt-tokenizer")
    folder = as_on_the_hub(tmp_path_factory.mktemp("walk") / "opt-1.3b", layers=2)
    cells = code(read(next(path for path in NOTEBOOKS if path.stem == "decoder_tour")))
    assert cells[0].count("lm = cutaway.load()") == 1 and '\n# lm = cutaway.load("facebook/opt-1.3b")' in cells[0]
    cells[0] = cells[0].replace("cutaway.load()", f"cutaway.load({str(folder)!r}, device='cpu')")  # the one line
    names: dict[str, Any] = {"printed": []}
    with mpl.rc_context({"backend": "agg"}):
        for cell in cells:
            with redirect_stdout(StringIO()) as out:
                exec(compile(cell, "decoder_tour", "exec"), names)
            names["printed"].append(out.getvalue())
        pyplot.close("all")
    yield names


def test_the_tour_on_opt(walked: dict[str, Any]):
    lm, printed = walked["lm"], "\n".join(walked["printed"])
    assert isinstance(lm, LM) and "[2, 133, 2119, 6219, 23602, 13855, 81, 5, 22414, 2335]" in printed
    assert "[[2, 100, 101, 14969, 13807, 1, 1], [2, 133, 3778, 10185, 11, 5, 3017]]" in printed
    assert "[[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]]" in printed
    architecture = str(lm)
    for fact in ("32 heads", "MLP 8192 (relu)", "50272×2048", "2050×2048", "int8"):
        assert fact in architecture, fact
    assert "True" in printed and "False" not in printed.replace(help_of(walked), "")
    assert walked["embedded"].shape == walked["position"].shape == walked["attn_out"].shape == (2, 7, 2048)
    padding = walked["batch"].mask == 0
    assert not walked["position"][padding].any() and walked["position"][~padding].any(-1).all()
    assert walked["by_hand"].tolist() == walked["batch"].positions.tolist()


def help_of(walked: dict[str, Any]) -> str:
    return next(text for text in walked["printed"] if text.startswith("Help on"))


def test_the_tour_shows_both_attentions(walked: dict[str, Any]):
    no_mask, no_norm, neither = (walked[name][0] for name in ("no_mask", "no_norm", "neither"))
    real = walked["sun"]["attn_out", 0][0]
    assert torch.equal(real, walked["attn_out"][1])  # as in the batch
    largest = float(real.abs().max())
    assert float((no_mask[-1] - real[-1]).abs().max()) < 1e-4 * largest  # the last position reads everything anyway
    assert float((no_mask[0] - real[0]).abs().max()) > 0.1 * largest
    assert float((no_norm - real).abs().max()) > 0.1 * largest
    original = the_original(walked["lm"], walked["vectors"])[0]
    assert float((neither - original).abs().max()) < 1e-4 * float(original.abs().max())


def the_original(lm: LM, x: Tensor) -> Tensor:
    """softmax(q · k / √K) · v from the embeddings themselves, as the notebook that began this had it."""
    q, k, v = (
        part.unflatten(-1, (32, 64)).transpose(1, 2) for part in lm.run_part("blocks.0.attn.qkv", x).chunk(3, -1)
    )
    z = (q @ k.mT / 8).softmax(-1) @ v
    return lm.run_part("blocks.0.attn.out", z.transpose(1, 2).flatten(-2))


def test_the_tour_writes(walked: dict[str, Any]):
    for out, seed in ((walked["first"], 0), (walked["second"], 1)):
        told = out.settings
        assert (told.temperature, told.top_p, told.do_sample, told.seed) == (0.7, 0.8, True, seed)
        assert len(out.prompt.ids[0]) + len(out.new_ids[0]) <= 50 and out.text
    for name in ("do_sample", "temperature", "top_p", "max_length"):
        assert f"{name} = " in help_of(walked)
