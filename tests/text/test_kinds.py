"""Fourteen kinds of vocabulary, as published models have them, on a page of scripts, emoji and control characters.

Ids, text and streamed text equal transformers' from the same folder; the spans cover the text.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from cutaway.text.spans import covering
from cutaway.text.tokenizer import Tokenizer
from tests.text.conftest import streamed

PAGE = [
    "The quick brown fox, don't!",
    "  naïve café — Ωμέγα; Привет, мир ",
    "日本語 텍스트 العربية עברית हिन्दी ไทย",
    "🙂👩‍👩‍👧🏽 🇫🇷 e\u0301 ﬁ ½ ² Ⅷ ① \U00010348",
    "tab\tnew\nline\r\n\x00\x07\x1b\u200b\u200d\ufeff\u00a0\u2028end",
    "def f(x):\n    return x + 1  # 12345",
    "<s>in</s> <unk> <pad> <0x41> ▁under",
    "İstanbul ǅ ß ſ \ufffd \u0301x",
]
ROLES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
SPECIAL = list(ROLES.values())
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
OPTIONS: dict[str, Any] = {"vocab_size": 700, "show_progress": False}
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UNK = {"unk_token": "<unk>"}
LLAMA = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]


def trained(model: Any, trainer: Any, special: list[str] = SPECIAL, **parts: Any) -> Backend:
    """A backend of these parts, trained on the page; only the roles' tokens are special."""
    backend = Backend(model)
    for name, part in parts.items():
        setattr(backend, name, part)
    backend.train_from_iterator(PAGE * 6, trainer(special))
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL]
    state["model"]["byte_fallback"] = special is not SPECIAL
    return Backend.from_str(json.dumps(state))


def byte_level(cut: Any, **parts: Any) -> Backend:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = lambda special: trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=special, **OPTIONS)  # noqa: E731
    return trained(models.BPE(), trainer, pre_tokenizer=cut, decoder=decoders.ByteLevel(), **parts)


def sentencepiece(fallback: bool, decoder: list[Any], **parts: Any) -> Backend:
    """SentencePiece's BPE: whole texts, spaces as ▁."""
    trainer = lambda special: trainers.BpeTrainer(special_tokens=special, **OPTIONS)  # noqa: E731
    special = [*SPECIAL, *BYTES] if fallback else SPECIAL
    return trained(models.BPE(**UNK, fuse_unk=True), trainer, special, decoder=decoders.Sequence(decoder), **parts)


def unigram(fallback: bool, decoder: Any) -> Backend:
    rules = [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    return trained(
        models.Unigram(),
        lambda special: trainers.UnigramTrainer(**UNK, special_tokens=special, **OPTIONS),
        [*SPECIAL, *BYTES] if fallback else SPECIAL,
        normalizer=normalizers.Sequence(rules),
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoder,
    )


def wordpiece(**rules: Any) -> Backend:
    return trained(
        models.WordPiece(**UNK),
        lambda special: trainers.WordPieceTrainer(special_tokens=special, **OPTIONS),
        normalizer=normalizers.BertNormalizer(**rules),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        decoder=decoders.WordPiece(),
    )


def gpt1() -> Backend:
    suffix = {"end_of_word_suffix": "</w>"}
    return trained(
        models.BPE(**UNK, **suffix),
        lambda special: trainers.BpeTrainer(**suffix, special_tokens=special, **OPTIONS),
        normalizer=normalizers.BertNormalizer(),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        decoder=decoders.BPEDecoder("</w>"),
    )


llama_rules = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
qwen_cuts = [pre_tokenizers.Split(Regex(QWEN), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
metaspace = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
KINDS: dict[str, Callable[[], Backend]] = {
    "byte-level, GPT-2": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "byte-level, add_prefix_space": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "byte-level, Qwen": lambda: byte_level(
        pre_tokenizers.Sequence(qwen_cuts),
        normalizer=normalizers.NFC(),
        post_processor=processors.ByteLevel(trim_offsets=False),
    ),
    "SentencePiece BPE, Llama 2": lambda: sentencepiece(True, LLAMA, normalizer=llama_rules),
    "SentencePiece BPE, Metaspace": lambda: sentencepiece(True, LLAMA, pre_tokenizer=metaspace),
    "SentencePiece BPE, Gemma": lambda: sentencepiece(True, LLAMA[:-1], normalizer=normalizers.Replace(" ", "▁")),
    "SentencePiece BPE without bytes": lambda: sentencepiece(False, LLAMA, normalizer=llama_rules),
    "unigram": lambda: unigram(False, decoders.Metaspace()),
    "unigram with bytes": lambda: unigram(True, decoders.Sequence(LLAMA)),
    "WordPiece, lower case": lambda: wordpiece(lowercase=True),
    "WordPiece, cased": lambda: wordpiece(lowercase=False, strip_accents=False),
    "WordLevel": lambda: trained(
        models.WordLevel(**UNK),
        lambda special: trainers.WordLevelTrainer(special_tokens=special, **OPTIONS),
        pre_tokenizer=pre_tokenizers.Whitespace(),
    ),
    "characters": lambda: trained(
        models.BPE(**UNK),
        lambda special: trainers.BpeTrainer(special_tokens=special, vocab_size=5, show_progress=False),
        decoder=decoders.Fuse(),
    ),
    "word ends, GPT-1": gpt1,
}


def both(folder: Path, backend: Backend) -> tuple[Tokenizer, Any]:
    """Ours and transformers' from one folder."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=backend, **ROLES).save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return Tokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def compared(tokenizer: Tokenizer, reference: Any) -> Iterator[tuple[str, list[Any]]]:
    """Each text of the page with its pieces, ids, text and streamed text compared with transformers'."""
    for text in [*PAGE, "\n".join(PAGE)]:
        tokens, ids = tokenizer.tokenize(text), reference(text).input_ids
        assert tokens.ids[0].tolist() == ids
        for skip in (True, False):
            decoded = reference.decode(ids, skip_special_tokens=skip)
            assert tokenizer.decode(ids, skip) == "".join(streamed(tokenizer, ids, skip)) == decoded
        assert tokens.pieces is not None
        yield text, [piece.span for piece in tokens.pieces[0] if piece.span is not None]


def covers(text: str, spans: list[tuple[int, int]]) -> bool:
    """Whether spans in order leave no character out."""
    return {i for span in spans for i in range(*span)} == set(range(len(text))) and sorted(spans) == spans


@pytest.mark.parametrize("kind", KINDS)
def test_ids_text_and_stream_are_those_of_transformers_and_the_spans_cover_the_page(kind: str, tmp_path: Path) -> None:
    for text, spans in compared(*both(tmp_path, KINDS[kind]())):
        assert covers(text, spans), text


def test_opts_vocabulary_on_the_same_page(bare_opt: Path) -> None:
    from transformers import AutoTokenizer

    roles = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>", "add_bos_token": True}
    (bare_opt / "tokenizer_config.json").write_text(json.dumps(roles | {"tokenizer_class": "GPT2Tokenizer"}))
    reference = AutoTokenizer.from_pretrained(bare_opt, local_files_only=True)
    for text, spans in compared(Tokenizer.from_folder(bare_opt), reference):
        assert covers(text, spans), text


def test_without_any_role_a_batch_is_padded_and_no_id_ends_it(tmp_path: Path) -> None:
    tokenizer, _ = both(tmp_path, KINDS["byte-level, GPT-2"]())
    shutil.copy(tmp_path / "tokenizer.json", tmp_path / "kept")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    bare = Tokenizer.from_folder(tmp_path)
    assert (bare.bos_id, bare.eos_id, bare.pad_id) == (None, None, None)
    tokens = bare.tokenize([PAGE[0], "The"], padding_side="left")
    assert tokens.ids[1, 0] == 0 and tokens.mask[1, 0] == 0 and tokens.mask[0].all()
    assert tokens.ids[0].tolist() == tokenizer.tokenize(PAGE[0]).ids[0].tolist()


@pytest.mark.parametrize(
    ("offsets", "spaced", "expected"),
    [
        ([(0, 3), (4, 7)], False, [(0, 3), (3, 7)]),  # a space belongs to the word after it
        ([(0, 3), (4, 7)], True, [(0, 4), (4, 7)]),  # or to that before it, which is spelled with one
        ([(2, 3), (3, 5)], False, [(0, 3), (3, 7)]),  # at both ends
        ([None, (0, 3), (3, 3), (3, 7), None], False, [None, (0, 3), (3, 3), (3, 7), None]),
        ([(0, 1), (5, 7)], False, [(0, 2), (2, 7)]),  # a mark on the character before it
        ([(0, 3), (0, 3), (4, 7)], False, [(0, 3), (0, 3), (3, 7)]),  # two bytes of one character
    ],
)
def test_a_character_that_no_piece_has_goes_to_the_one_beside_it(
    offsets: list[Any], spaced: bool, expected: list[Any]
) -> None:
    assert covering("e\u0301e fgh", offsets, [spaced] * len(offsets)) == expected
