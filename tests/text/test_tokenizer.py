"""Texts to ids and back, from folders: OPT in miniature, OPT itself, and folders with a tokenizer.json."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors

from cutaway.ground.errors import BadArgument, BadText, NoTokenizer
from cutaway.text.from_folder import PLAIN_MODEL_TYPES
from cutaway.text.from_gguf import tokenizer_files_from_gguf
from cutaway.text.parts import Parts
from cutaway.text.tokenizer import Tokenizer
from tests.text.conftest import as_transformers

REAL_TEXTS = [
    "The quick brown fox jumps over the lazy dog",
    "  leading spaces, 12 34, and a tab\t",
    "naïve café 🙂 👩‍👩‍👧 日本語 텍스트 العربية",
    "def f(x):\n    return x + 1  # code\n\n",
    "special tokens in the text: <|end|> <|start|>user <think> </s><pad>",
    "'s 't it's we're I'LL 1000000 ½ ² Ⅷ ٣",
]


def test_bos_is_prepended_once_and_shorter_texts_are_padded_right(opt: Tokenizer) -> None:
    tokens = opt.tokenize(["I like Machine Learning", "The sun rises in the east"])
    assert tokens.ids.tolist() == [[2, 1000, 1001, 1002, 1003, 1, 1], [2, 1004, 1005, 1006, 1007, 1008, 1009]]
    assert tokens.mask.tolist() == [[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]]
    assert tokens.positions.tolist() == [[0, 1, 2, 3, 4, -1, -1], [0, 1, 2, 3, 4, 5, 6]]


def test_left_padding_moves_the_text_and_not_its_positions(opt: Tokenizer) -> None:
    tokens = opt.tokenize(["I like Machine Learning", "The sun rises in the east"], padding_side="left")
    assert tokens.ids.tolist()[0] == [1, 1, 2, 1000, 1001, 1002, 1003]
    assert tokens.mask.tolist()[0] == [0, 0, 1, 1, 1, 1, 1]
    assert tokens.positions.tolist()[0] == [-1, -1, 0, 1, 2, 3, 4]


def test_opt_has_its_own_special_tokens_not_those_of_gpt2(opt: Tokenizer) -> None:
    assert (opt.bos_id, opt.eos_id, opt.pad_id) == (2, 2, 1)
    assert {1, 2} <= opt.special_ids
    assert opt.backend.token_to_id("<|endoftext|>") is None
    assert opt.chat_template is None


def test_without_special_tokens_no_bos_is_hidden_anywhere(opt: Tokenizer) -> None:
    assert opt.tokenize("I like", add_special_tokens=False).ids.tolist() == [[1000, 1001]]


def test_pieces_carry_bytes_span_and_marks(opt: Tokenizer) -> None:
    tokens = opt.tokenize(["I like", "I"])
    assert tokens.pieces is not None
    first, second = tokens.pieces
    assert [(p.text, p.bytes, p.span, p.special, p.padding) for p in first] == [
        ("</s>", b"</s>", None, True, False),
        ("I", b"I", (0, 1), False, False),
        (" like", b" like", (1, 6), False, False),
    ]
    assert (second[-1].id, second[-1].span, second[-1].padding) == (1, None, True)


def test_a_piece_inside_a_character_has_the_span_of_the_character(opt: Tokenizer) -> None:
    tokens = opt.tokenize("a🙂b", add_special_tokens=False)
    assert tokens.pieces is not None
    assert [p.span for p in tokens.pieces[0]] == [(0, 1), (1, 2), (1, 2), (1, 2), (1, 2), (2, 3)]
    assert b"".join(p.bytes for p in tokens.pieces[0]) == "a🙂b".encode()


def test_a_special_token_written_in_the_text_is_marked_and_has_a_span(opt: Tokenizer) -> None:
    tokens = opt.tokenize("I</s>I")
    assert tokens.pieces is not None
    assert [(p.id, p.span, p.special) for p in tokens.pieces[0][1:]] == [
        (1000, (0, 1), False),
        (2, (1, 5), True),
        (1000, (5, 6), False),
    ]


def test_spans_hold_where_the_tokenizer_trims_its_offsets(trained: Tokenizer) -> None:
    backend = type(trained.backend).from_str(trained.backend.to_str())
    backend.post_processor = processors.ByteLevel(trim_offsets=True)  # as in Llama 3's tokenizer.json
    text = "the  cat 🙂 on"
    tokens = Tokenizer(Parts(backend)).tokenize(text)
    assert tokens.pieces is not None
    assert [text[p.span[0] : p.span[1]] for p in tokens.pieces[0] if p.span][:3] == ["the", " ", " cat"]


@given(text=st.text(min_size=1, max_size=30).filter(lambda text: "<|end|>" not in text))
@settings(max_examples=60, deadline=None)
def test_a_byte_level_text_comes_back_and_its_spans_cover_it(trained: Tokenizer, text: str) -> None:
    tokens = trained.tokenize(text)
    assert tokens.pieces is not None
    assert trained.decode(tokens.ids[0].tolist()) == text
    assert b"".join(p.bytes for p in tokens.pieces[0]) == text.encode()
    covered = {offset for p in tokens.pieces[0] if p.span for offset in range(*p.span)}
    assert covered == set(range(len(text)))
    for p in tokens.pieces[0]:
        assert p.span is not None
        assert p.bytes in text[p.span[0] : p.span[1]].encode()


def test_ids_alone_give_pieces_without_spans(opt: Tokenizer) -> None:
    pieces = opt.pieces([2, 1001, 1007])
    assert [(p.text, p.span, p.special) for p in pieces] == [
        ("</s>", None, True),
        (" like", None, False),
        (" in", None, False),
    ]


def test_an_id_that_only_the_model_has_stands_for_nothing(opt: Tokenizer) -> None:
    assert opt.token_bytes(50271) == b""
    assert opt.pieces([50271])[0].visible == "⟨id·50271⟩"
    assert opt.decode([1000, 50271, 1001]) == "I like"
    with pytest.raises(BadArgument, match="id -1"):
        opt.token_bytes(-1)


def test_without_a_pad_token_eos_fills_and_the_mask_tells(trained: Tokenizer) -> None:
    tokens = trained.tokenize(["the cat sat", "the"])
    assert trained.pad_id is None
    assert tokens.ids[1, -1] == trained.eos_id
    assert tokens.mask[1].tolist()[0] == 1
    assert tokens.mask[1].tolist()[-1] == 0


@pytest.mark.parametrize("texts", ["", ["I", ""]])
def test_an_empty_text_is_refused_even_where_a_bos_would_be_added(opt: Tokenizer, texts: Any) -> None:
    with pytest.raises(BadText, match="an empty text"):
        opt.tokenize(texts)


@pytest.mark.parametrize("texts", [[], None, 3, ["I", 3], b"I", {"I": 1}])
def test_what_is_no_text_is_refused(opt: Tokenizer, texts: Any) -> None:
    with pytest.raises(BadArgument, match="text"):
        opt.tokenize(texts)


def test_a_text_without_a_token_is_refused() -> None:
    backend = Backend(models.WordLevel({"a": 0}))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    with pytest.raises(BadText, match=r"found the text '  ', which holds no token; expected at least one; write a few"):
        Tokenizer(Parts(backend)).tokenize("  ")
    spelled = r"found a vocabulary that cannot spell the text 'b' \(.*\); expected a token for every character"
    with pytest.raises(NoTokenizer, match=spelled):
        Tokenizer(Parts(Backend(models.WordLevel({"a": 0}, unk_token="<unk>")))).tokenize("b")


def test_half_a_surrogate_pair_is_refused(opt: Tokenizer) -> None:
    with pytest.raises(BadText, match="surrogate"):
        opt.tokenize("I \ud83d")


def test_a_text_longer_than_the_context_is_refused_with_both_numbers(opt: Tokenizer) -> None:
    assert opt.tokenize("I like Machine", context=4).ids.shape == (1, 4)
    with pytest.raises(BadText) as caught:
        opt.tokenize(["I", "I like Machine"], context=3)
    assert str(caught.value) == (
        "found a text of 4 tokens (number 2 of 2); expected at most 3, the model's context; shorten the text."
    )


def test_an_unknown_side_is_refused(opt: Tokenizer) -> None:
    with pytest.raises(BadArgument, match="padding_side='top'"):
        opt.tokenize("I", padding_side="top")  # type: ignore[arg-type]


def test_a_folder_without_a_tokenizer_names_the_files_looked_for(tmp_path: Path) -> None:
    with pytest.raises(NoTokenizer, match=r"tokenizer\.json.*vocab\.json.*merges\.txt"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("content", ["{}", "not json"])
def test_a_broken_tokenizer_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(NoTokenizer, match="cannot be read"):
        Tokenizer.from_folder(tmp_path)


def test_a_model_config_with_its_own_ids_is_heeded(opt_folder: Path, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(opt_folder / name, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "opt", "bos_token_id": 0}')
    assert Tokenizer.from_folder(tmp_path).tokenize("I").ids.tolist() == [[0, 1000]]


def test_gpt2_gets_no_bos_and_no_token_that_its_vocabulary_lacks(opt_folder: Path, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(opt_folder / name, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.tokenize("I like").ids.tolist() == [[1000, 1001]]
    assert tokenizer.bos_id is None
    assert tokenizer.backend.token_to_id("<|endoftext|>") is None


@pytest.mark.usefixtures("no_network")
def test_a_local_folder_opens_no_socket(opt_folder: Path) -> None:
    assert Tokenizer.from_folder(opt_folder).bos_id == 2


@pytest.fixture(scope="session")
def plain_folder(tmp_path_factory: pytest.TempPathFactory, byte_metadata: dict[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    tokenizer_files_from_gguf(byte_metadata, folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def test_plain_and_bare_folders_need_no_transformers(plain_folder: Path, opt_folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cutaway.text.tokenizer import Tokenizer; "
        "[Tokenizer.from_folder(Path(folder)) for folder in sys.argv[1:]]; sys.exit('transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(plain_folder), str(opt_folder)], check=True)


def test_reading_a_plain_folder_directly_equals_transformers(plain_folder: Path) -> None:
    assert as_transformers(plain_folder, REAL_TEXTS).pad_id is None


@pytest.mark.parametrize("setting", [{"add_bos_token": True}, {"extra_special_tokens": ["Ġthe"]}])
def test_a_setting_that_may_change_ids_goes_through_transformers(
    plain_folder: Path, tmp_path: Path, setting: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(plain_folder, tmp_path / "set"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | setting))
    as_transformers(folder, REAL_TEXTS)


def test_transformers_obeys_the_class_for_the_model_types_that_are_read_directly() -> None:
    from transformers.models.auto import tokenization_auto as auto

    for model_type in PLAIN_MODEL_TYPES:
        assert model_type not in auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
        assert auto.TOKENIZER_MAPPING_NAMES.get(model_type) != "MistralCommonBackend"


@pytest.fixture
def real_opt(bare_opt: Path) -> Tokenizer:
    return Tokenizer.from_folder(bare_opt)


def test_the_notebooks_text_gives_the_notebooks_ids(real_opt: Tokenizer) -> None:
    tokens = real_opt.tokenize("The quick brown fox jumps over the lazy dog")
    assert tokens.ids.tolist() == [[2, 133, 2119, 6219, 23602, 13855, 81, 5, 22414, 2335]]
    assert tokens.mask.tolist() == [[1] * 10]


def test_the_notebooks_pair_gives_the_notebooks_ids_and_mask(real_opt: Tokenizer) -> None:
    tokens = real_opt.tokenize(["I like Machine Learning", "The sun rises in the east"])
    assert tokens.ids.tolist() == [[2, 100, 101, 14969, 13807, 1, 1], [2, 133, 3778, 10185, 11, 5, 3017]]
    assert tokens.mask.tolist() == [[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]]


def test_opts_vocabulary_grows_by_nothing(real_opt: Tokenizer) -> None:
    assert real_opt.vocab_size == 50265
