"""tokenizer.model alone: ids, text and stream are SentencePiece's own, special tokens those of transformers."""

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.ground.errors import NoTokenizer
from cutaway.text.sentencepiece_file import Kind, Method, read_sentencepiece
from cutaway.text.tokenizer import Tokenizer
from tests.text.conftest import as_transformers, streamed

spm = pytest.importorskip("sentencepiece", reason="sentencepiece trains the files of these tests, and is not installed")

SENTENCES = [
    "the cat sat on the mat",
    "the dog ran to the cat and sat",
    "naïve café 🙂 日本語 日本",
    "def f(x): return x + 1",
    "  two  spaces   three",
    "quick brown fox jumps over the lazy dog",
] * 20
VARIANTS: dict[str, dict[str, Any]] = {
    "as Llama's": {},
    "without bytes": {"byte_fallback": False},
    "normalized": {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True},
    "folded": {"normalization_rule_name": "nmt_nfkc_cf", "byte_fallback": False},
    "without a space before": {"add_dummy_prefix": False},
    "with symbols of its own": {"user_defined_symbols": ["<sep>", "  "], "control_symbols": ["<ctl>"]},
    "other ids": {"unk_id": 2, "bos_id": 0, "eos_id": 1, "pad_id": 3},
}
TEXTS = [
    "the cat sat",
    " the cat",
    "  the  cat ",
    "\nthe\n\ncat\t",
    "🙂 naïve Ж 日本",
    "▁the▁ cat",
    " ",
    "<0x41>x",
    "a<sep>b <sep> c<sep>",
    "ＡＢ ﬁ Ⅷ",
    "    four     five",
]
SPECIAL = ["<s>the cat", "the</s> cat", "the<s>cat</s>", "</s>", "<unk> the", "the <pad>cat <|im_end|>\n"]
LLAMA = {"tokenizer_class": "LlamaTokenizer"}


def trained(method: str, **options: Any) -> bytes:
    written = io.BytesIO()
    defaults = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=written,
        model_type=method,
        hard_vocab_limit=False,
        character_coverage=0.99,
        minloglevel=2,
        **({"vocab_size": 350} | defaults | options),
    )
    return written.getvalue()


def folder_of(folder: Path, data: bytes, config: dict[str, Any] | None = None, **files: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(data)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def ids_of(tokenizer: Tokenizer, text: str, bos: bool = False) -> list[int]:
    return tokenizer.backend.encode(text, add_special_tokens=bos).ids


@pytest.fixture(scope="module")
def llama_bytes() -> bytes:
    return trained("bpe")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", ["bpe", "unigram", "char"])
def test_ids_text_and_stream_are_sentencepieces(method: str, variant: str, tmp_path: Path) -> None:
    data = trained(method, **VARIANTS[variant])
    reference = spm.SentencePieceProcessor(model_proto=data)
    tokenizer = Tokenizer.from_folder(folder_of(tmp_path / "model", data, LLAMA))
    drawn = random.Random(variant)
    letters = "the cat  sat\n\t🙂é日▁Ж<0x41>(1)  "
    for text in TEXTS + ["".join(drawn.choices(letters, k=drawn.randint(1, 25))) for _ in range(80)]:
        ids = reference.encode(text)
        assert ids_of(tokenizer, text) == ids, text
        assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)
        if reference.unk_id() not in ids:  # SentencePiece writes ⁇ for it, transformers leaves it out
            assert tokenizer.decode(ids) == reference.decode(ids)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (reference.bos_id(), reference.eos_id())


@given(text=st.text(alphabet="the cat sat\n🙂é日▁Ж  ", min_size=1, max_size=30))
@settings(max_examples=150, deadline=None)
def test_any_text_of_llamas_kind(llama_bytes: bytes, tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    reference = spm.SentencePieceProcessor(model_proto=llama_bytes)
    tokenizer = Tokenizer.from_folder(folder_of(tmp_path_factory.getbasetemp() / "any", llama_bytes, LLAMA))
    ids = reference.encode(text)
    assert ids_of(tokenizer, text) == ids
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids) == reference.decode(ids)


def test_f9_tokenizer_model_alone_gives_the_right_ids(llama_bytes: bytes, tmp_path: Path) -> None:
    config = LLAMA | {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = Tokenizer.from_folder(folder_of(tmp_path, llama_bytes, config))
    reference = spm.SentencePieceProcessor(model_proto=llama_bytes)
    assert tokenizer.tokenize("the cat sat").ids.tolist() == [[1, *reference.encode("the cat sat")]]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, None)
    assert tokenizer.special_ids == {0, 1, 2}
    assert len(tokenizer.notes) == 1
    assert "<s> is put before each text" in tokenizer.notes[0]


EMPTY = {"bos_token": "", "eos_token": "", "unk_token": "", "tokenizer_class": "LlamaTokenizer"}


@pytest.mark.parametrize("config", [None, {}, {"tokenizer_class": "LLaMATokenizer"}, EMPTY])
def test_what_no_file_says_is_the_models_own(llama_bytes: bytes, tmp_path: Path, config: Any) -> None:
    tokenizer = Tokenizer.from_folder(folder_of(tmp_path, llama_bytes, config))
    assert tokenizer.names == {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    assert ids_of(tokenizer, "a", bos=True)[0] == 1


@pytest.mark.parametrize(
    ("add_bos", "add_eos", "before", "after"), [(True, False, [1], []), (False, True, [], [2]), (True, True, [1], [2])]
)
def test_bos_and_eos_are_put_as_the_files_say(
    llama_bytes: bytes, tmp_path: Path, add_bos: bool, add_eos: bool, before: list[int], after: list[int]
) -> None:
    config = LLAMA | {"add_bos_token": add_bos, "add_eos_token": add_eos}
    tokenizer = Tokenizer.from_folder(folder_of(tmp_path, llama_bytes, config))
    assert ids_of(tokenizer, "the cat", bos=True) == [*before, *ids_of(tokenizer, "the cat"), *after]
    assert tokenizer.notes == ()


ROLES = {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>"}
CHATTY = ROLES | {"eos_token": "<|im_end|>"}


def in_old_files(size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """As Vicuna's folder: a token's id in added_tokens.json, its role in special_tokens_map.json."""
    added = {"<pad>": size, "<|im_end|>": size + 1}
    return CHATTY, {"added_tokens": added, "special_tokens_map": {"pad_token": "<pad>"}}


def in_the_config(size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    stored = {
        "0": {"content": "<unk>", "special": True, "normalized": False},
        str(size): {"content": "<pad>", "special": True, "lstrip": True},
        str(size + 1): {"content": "<|im_end|>", "special": False, "rstrip": True},
    }
    return CHATTY | {"added_tokens_decoder": stored}, {}


def without_ids(size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    return ROLES | {"additional_special_tokens": ["<pad>", "<|im_start|>"]}, {}


@pytest.mark.parametrize("method", ["bpe", "unigram"])
@pytest.mark.parametrize("files", [lambda size: (ROLES, {}), in_old_files, in_the_config, without_ids])
def test_special_and_added_tokens_are_those_of_transformers(method: str, files: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    data = trained(method)
    config, others = files(spm.SentencePieceProcessor(model_proto=data).get_piece_size())
    folder = folder_of(tmp_path, data, config, **others)
    reference = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # transformers takes the spelling of a byte for the byte; SentencePiece does not
    texts = [text for text in (*TEXTS, *SPECIAL) if method == "bpe" or "<0x41>" not in text]
    tokenizer = as_transformers(folder, texts)
    for text in texts:
        ids = ids_of(tokenizer, text, bos=True)
        assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)
    assert tokenizer.special_ids == {i for i, t in reference.added_tokens_decoder.items() if t.special}


def test_without_legacy_only_the_start_of_a_text_gets_a_space(llama_bytes: bytes, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, llama_bytes, LLAMA | {"legacy": False, "add_bos_token": True})
    as_transformers(folder, [*TEXTS, *SPECIAL])


def test_a_placeholder_piece_takes_the_name_of_the_added_token(tmp_path: Path) -> None:
    data = trained("bpe", user_defined_symbols=["<unused0>"])
    stored = {"3": {"content": "<|im_start|>", "special": True}}
    tokenizer = Tokenizer.from_folder(folder_of(tmp_path, data, LLAMA | {"added_tokens_decoder": stored}))
    assert ids_of(tokenizer, "<|im_start|>")[-1] == 3
    assert tokenizer.token(3) == "<|im_start|>"
    assert 3 in tokenizer.special_ids


def test_an_added_token_keeps_its_id_behind_a_gap(llama_bytes: bytes, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder_of(tmp_path, llama_bytes, LLAMA, added_tokens={"<pad>": 400}))
    assert ids_of(tokenizer, "the<pad>")[-1] == 400


def test_an_added_token_that_cannot_have_its_id_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, trained("unigram"), LLAMA, added_tokens={"<pad>": 4000})
    with pytest.raises(NoTokenizer, match="'<pad>' has id 4000"):
        Tokenizer.from_folder(folder)


def test_the_reader_finds_what_sentencepiece_wrote() -> None:
    from sentencepiece import sentencepiece_model_pb2

    data = trained("bpe", user_defined_symbols=["<sep>"], pad_id=3, bos_id=-1, normalization_rule_name="nmt_nfkc")
    reference = sentencepiece_model_pb2.ModelProto.FromString(data)
    model = read_sentencepiece(data)
    assert model.pieces == [p.piece for p in reference.pieces]
    assert model.scores == [p.score for p in reference.pieces]
    assert model.kinds == [p.type for p in reference.pieces]
    assert Kind.USER_DEFINED in model.kinds
    assert model.method is Method.BPE
    assert model.charsmap == reference.normalizer_spec.precompiled_charsmap
    assert model.roles == {"unk_token": 0, "eos_token": 2, "pad_token": 3}


def test_word_models_are_refused_by_name(tmp_path: Path) -> None:
    data = trained("word", byte_fallback=False, vocab_size=30)
    with pytest.raises(NoTokenizer, match="SentencePiece model of whole words"):
        Tokenizer.from_folder(folder_of(tmp_path, data, LLAMA))


def test_rules_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(trained("bpe"))
    model.normalizer_spec.precompiled_charsmap = b"no rules"
    found = r"found tokenizer files in .* that cannot be read \(tokenizer.model: .*\); expected files that fit together"
    with pytest.raises(NoTokenizer, match=found):
        Tokenizer.from_folder(folder_of(tmp_path, model.SerializeToString(), LLAMA))


@pytest.mark.parametrize("length", [0, 1, 100, 2000])
def test_a_file_cut_in_two_is_refused(llama_bytes: bytes, tmp_path: Path, length: int) -> None:
    with pytest.raises(NoTokenizer, match=r"\(tokenizer\.model: (a SentencePiece model|a number|bytes) that"):
        Tokenizer.from_folder(folder_of(tmp_path, llama_bytes[:length], LLAMA))


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (b"\x80", "a number that does not end"),
        (b"\x0b", "bytes that are no SentencePiece model, or only a part of one"),
        (b"\x08\x01", "a number where bytes were due"),
        (b"\x0a\x05\x12\x03abc", "a score that is no float"),
        (b"\x12\x04\xc2\x02\x01a", "bytes where a number was due"),
    ],
)
def test_bytes_of_another_kind_are_refused(llama_bytes: bytes, tmp_path: Path, added: bytes, message: str) -> None:
    with pytest.raises(NoTokenizer, match=rf"that cannot be read \(tokenizer.model: {message}\); expected files"):
        Tokenizer.from_folder(folder_of(tmp_path, llama_bytes + added, LLAMA))


def test_a_piece_under_two_ids_is_refused(llama_bytes: bytes) -> None:
    first = llama_bytes[: 2 + llama_bytes[1]]
    with pytest.raises(ValueError, match="a piece under two ids"):
        read_sentencepiece(first + llama_bytes)


@given(offset=st.integers(0, 3000), byte=st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_a_byte_that_changed_is_read_or_is_a_value_error(llama_bytes: bytes, offset: int, byte: int) -> None:
    changed = llama_bytes[:offset] + bytes([byte]) + llama_bytes[offset + 1 :]
    try:
        assert read_sentencepiece(changed).pieces
    except ValueError as error:
        assert str(error)
