"""Tokenizers from GGUF metadata: byte-level and SentencePiece, against transformers and against a slow reference."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.ground.errors import NoTokenizer
from cutaway.text.from_gguf import merges_from_scores, parts_from_gguf, tokenizer_files_from_gguf
from cutaway.text.gguf_splits import SPLITS, split_of
from cutaway.text.spelling import SPACE
from cutaway.text.tokenizer import Tokenizer

TEXTS = [
    "the cat  the     12 ab",
    "🙂🙃 café <|start|>the<|end|> <think>",
    "hello world",
    "  hello",
    "a world of cats\n\tof 日本",
    "helloworld hello  world",
]


@pytest.mark.parametrize("kind", ["byte_metadata", "llama_metadata"])
def test_the_written_files_give_the_same_ids_to_us_and_to_transformers(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    metadata = request.getfixturevalue(kind)
    tokenizer_files_from_gguf(metadata, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    direct, folder = Tokenizer.from_gguf(metadata), Tokenizer.from_folder(tmp_path)
    reference = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in TEXTS:
        ids = direct.tokenize(text).ids[0].tolist()
        assert folder.tokenize(text).ids[0].tolist() == ids
        assert reference(text).input_ids == ids
        assert reference.decode(ids, skip_special_tokens=True) == direct.decode(ids)
    roles = (reference.bos_token_id, reference.eos_token_id, reference.pad_token_id)
    assert (direct.bos_id, direct.eos_id, direct.pad_id) == roles
    assert folder.special_ids == direct.special_ids


def test_smollm_cuts_digits_one_by_one_and_before_the_spaces(byte_metadata: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_gguf(byte_metadata)
    tokens = tokenizer.tokenize("the   12")
    assert tokens.pieces is not None
    assert [p.text for p in tokens.pieces[0]] == ["the", "   ", "1", "2"]
    plain = Tokenizer.from_gguf(byte_metadata | {"tokenizer.ggml.pre": "gpt-2"})
    pieces = plain.tokenize("the   12").pieces
    assert pieces is not None
    assert [p.text for p in pieces[0]] == ["the", "  ", " ", "12"]


def test_user_defined_tokens_are_whole_and_not_special(byte_metadata: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_gguf(byte_metadata)
    last = len(byte_metadata["tokenizer.ggml.tokens"]) - 1
    assert tokenizer.tokenize("<think>").ids.tolist() == [[last]]
    assert last not in tokenizer.special_ids
    assert tokenizer.decode([1, last, 0]) == "<think>"


@pytest.mark.parametrize(
    ("pre", "flag", "added"), [("smollm", None, 0), ("llama-bpe", None, 1), ("llama-bpe", False, 0)]
)
def test_bos_is_added_where_the_file_says_so_or_its_kind_implies_it(
    byte_metadata: dict[str, Any], pre: str, flag: bool | None, added: int
) -> None:
    metadata = {k: v for k, v in byte_metadata.items() if k != "tokenizer.ggml.add_bos_token"}
    metadata |= {"tokenizer.ggml.pre": pre} | ({} if flag is None else {"tokenizer.ggml.add_bos_token": flag})
    assert Tokenizer.from_gguf(metadata).tokenize("the").ids[0].tolist().count(1) == added


def test_eos_is_added_where_the_file_says_so(byte_metadata: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_gguf(byte_metadata | {"tokenizer.ggml.add_eos_token": True})
    assert tokenizer.tokenize("the").ids[0].tolist()[-1] == 0


def test_every_splitting_rule_keeps_every_byte(byte_metadata: dict[str, Any]) -> None:
    for pre in SPLITS:
        tokenizer = Tokenizer.from_gguf(byte_metadata | {"tokenizer.ggml.pre": pre})
        for text in TEXTS[:2]:
            assert tokenizer.decode(tokenizer.tokenize(text).ids[0].tolist(), False).endswith(text)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"tokenizer.ggml.pre": "mystery"}, "tokenizer.ggml.pre='mystery'"),
        ({"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model='bert'"),
        ({"tokenizer.ggml.merges": ["nope nix"]}, "does not fit together"),
        ({"tokenizer.ggml.merges": None}, "(byte-level tokens without tokenizer.ggml.merges); expected ids, tokens"),
        ({"tokenizer.ggml.model": "none"}, "without a vocabulary (tokenizer.ggml.model='none')"),
        ({"tokenizer.ggml.model": None}, "pass ids instead of text"),
        ({"tokenizer.ggml.model": "t5"}, "SentencePiece unigram vocabulary"),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.merges": []}, "without tokenizer.ggml.scores"),
        ({"tokenizer.ggml.tokens": ["a", "a"], "tokenizer.ggml.token_type": [1, 1]}, "'a' under two ids"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "values of tokenizer.ggml.token_type for 2 tokens"),
        ({"tokenizer.ggml.tokens": 5}, "does not fit together (tokenizer.ggml.tokens=5)"),
        ({"tokenizer.ggml.eot_token_id": "x"}, "tokenizer.ggml.eot_token_id=x"),
        ({"tokenizer.ggml.merges": ["a b"]}, "the merge 'a' 'b' of what are no tokens"),
        ({"tokenizer.chat_template": 3}, "tokenizer.chat_template=3"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(
    byte_metadata: dict[str, Any], change: dict[str, Any], names: str
) -> None:
    with pytest.raises(NoTokenizer) as caught:
        Tokenizer.from_gguf({key: value for key, value in (byte_metadata | change).items() if value is not None})
    assert names in str(caught.value)


def sentencepiece_ids(metadata: dict[str, Any], text: str) -> list[int]:
    """SentencePiece's BPE written out: merge the best-scored neighbours, the leftmost first, until none is a token."""
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    id_of = {token: i for i, token in enumerate(tokens)}
    pieces = list(SPACE + text.replace(" ", SPACE))
    while True:
        pairs = [(scores[id_of[a + b]], -n) for n, (a, b) in enumerate(itertools.pairwise(pieces)) if a + b in id_of]
        if not pairs:
            break
        i = -max(pairs)[1]
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    raw = [[piece] if piece in id_of else [f"<0x{byte:02X}>" for byte in piece.encode()] for piece in pieces]
    return [1, *(id_of[piece] for group in raw for piece in group)]


@given(text=st.text(alphabet="helowrdcat é🙂日", min_size=1, max_size=20))
@settings(max_examples=150, deadline=None)
def test_sentencepiece_ids_are_those_of_the_slow_reference(llama_metadata: dict[str, Any], text: str) -> None:
    tokenizer = Tokenizer.from_gguf(llama_metadata)
    assert tokenizer.tokenize(text).ids[0].tolist() == sentencepiece_ids(llama_metadata, text)
    assert tokenizer.decode(tokenizer.tokenize(text).ids[0].tolist()) == text


def test_sentencepiece_ids_are_those_of_transformers_llama(llama_metadata: dict[str, Any]) -> None:
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    tokens, scores = llama_metadata["tokenizer.ggml.tokens"], llama_metadata["tokenizer.ggml.scores"]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = generate_merges(vocab, dict(zip(tokens, scores, strict=True)))
    reference = LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)
    tokenizer = Tokenizer.from_gguf(llama_metadata)
    for text in ("hello world", "cats  hello", "日本 world\n"):
        ids = tokenizer.tokenize(text).ids[0].tolist()
        assert ids == reference(text).input_ids
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True) == text


def test_sentencepiece_pieces_stand_in_the_text_without_the_added_space(llama_metadata: dict[str, Any]) -> None:
    tokens = Tokenizer.from_gguf(llama_metadata).tokenize("hello 日")
    assert tokens.pieces is not None
    assert [(p.bytes, p.span) for p in tokens.pieces[0]] == [
        (b"<s>", None),
        (b" hello", (0, 5)),
        (b" ", (5, 6)),
        (b"\xe6", (6, 7)),
        (b"\x97", (6, 7)),
        (b"\xa5", (6, 7)),
    ]


def test_without_the_prefix_space_nothing_is_added(llama_metadata: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_gguf(llama_metadata | {"tokenizer.ggml.add_space_prefix": False})
    tokens = tokenizer.tokenize(" hello")
    assert [p.text for p in tokens.pieces[0]] == ["<s>", " hello"]  # type: ignore[index]
    assert tokenizer.decode(tokens.ids[0].tolist()) == " hello"


CUTS = {
    "gpt-2": ["it", "'", "S", " HelloWorld", " 1234", "!!", "\n\n"],
    "smollm": ["it", "'", "S", " HelloWorld", " ", "1", "2", "3", "4", "!!", "\n\n"],
    "llama-bpe": ["it", "'S", " HelloWorld", " ", "123", "4", "!!\n\n"],
    "smaug-bpe": ["it", "'S", " HelloWorld", " ", "123", "4", "!!\n\n"],
    "qwen2": ["it", "'S", " HelloWorld", " ", "1", "2", "3", "4", "!!\n\n"],
    "tekken": ["it", "'S", " Hello", "World", " ", "1", "2", "3", "4", "!!\n\n"],
    "gpt-4o": ["it'S", " Hello", "World", " ", "123", "4", "!!\n\n"],
    "seed-coder": ["it", "'S", " HelloWorld", " ", "1", "2", "3", "4", "!!", "\n\n"],
    "deepseek-coder": ["it", "'", "S", " HelloWorld", " ", "1", "2", "3", "4", "!!", "\n", "\n"],
}  # fmt: skip


@pytest.mark.parametrize("pre", CUTS)
def test_each_rule_cuts_a_text_as_its_models_were_trained(pre: str) -> None:
    text = "it'S HelloWorld 1234!!\n\n"
    cut = [text[begin:end] for _, (begin, end) in SPLITS[pre].pre_tokenizer().pre_tokenize_str(text)]
    assert cut == CUTS[pre]


def without(metadata: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key.removeprefix("tokenizer.ggml.") not in keys}


def renamed(metadata: dict[str, Any], tokens: list[str]) -> dict[str, Any]:
    """The vocabulary with these tokens at its end."""
    known = metadata["tokenizer.ggml.tokens"]
    types = [*metadata["tokenizer.ggml.token_type"], *[3] * len(tokens)]
    return metadata | {"tokenizer.ggml.tokens": [*known, *tokens], "tokenizer.ggml.token_type": types}


@pytest.mark.parametrize("pre", [None, "default"])
def test_a_llama_3_of_april_2024_is_known_by_its_vocabulary(byte_metadata: dict[str, Any], pre: str | None) -> None:
    old = without(byte_metadata, "pre", "add_bos_token") | ({} if pre is None else {"tokenizer.ggml.pre": pre})
    old = renamed(old, ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>"])
    new = old | {"tokenizer.ggml.pre": "llama-bpe"}
    parts = parts_from_gguf(old)
    assert parts.notes == (
        "the GGUF file does not say how texts are cut before the merges (tokenizer.ggml.pre): "
        "taken as 'llama-bpe', by its vocabulary",
    )
    assert parts_from_gguf(new).notes == ()
    for text in TEXTS:
        assert Tokenizer(parts).tokenize(text).ids.tolist() == Tokenizer.from_gguf(new).tokenize(text).ids.tolist()
    assert Tokenizer(parts).tokenize("the").ids[0, 0] == 1  # BOS, as this rule implies


def test_qwen2_and_gpt2_are_known_by_their_vocabularies() -> None:
    fill = [f"t{i}" for i in range(151_643)]
    qwen = {"tokenizer.ggml.tokens": [*fill, "<|endoftext|>", "<|im_start|>", "<|im_end|>"]}
    assert split_of(qwen)[0] == SPLITS["qwen2"]
    assert split_of({"tokenizer.ggml.tokens": [*fill[:50_256], "<|endoftext|>"]})[0] == SPLITS["gpt-2"]
    assert "'gpt-2', by its vocabulary" in split_of({"tokenizer.ggml.tokens": [*fill[:50_256], "<|endoftext|>"]})[1][0]


def test_a_rule_that_nothing_tells_is_gpt2s_with_a_loud_word(byte_metadata: dict[str, Any]) -> None:
    parts = parts_from_gguf(without(byte_metadata, "pre"))
    (note,) = parts.notes
    assert "GPT-2's rule is used, and IDS MAY DIFFER" in note
    pieces = Tokenizer(parts).tokenize("the   12").pieces
    assert pieces is not None
    assert [p.text for p in pieces[0]] == ["the", "  ", " ", "12"]


def test_merges_beside_a_sentencepiece_vocabulary_are_taken_in_their_order(llama_metadata: dict[str, Any]) -> None:
    tokens, scores = llama_metadata["tokenizer.ggml.tokens"], llama_metadata["tokenizer.ggml.scores"]
    merges = [" ".join(m) for m in merges_from_scores(tokens, scores, llama_metadata["tokenizer.ggml.token_type"])]
    lost = llama_metadata | {"tokenizer.ggml.scores": [-1000.0] * len(tokens)}
    with_merges, scored = lost | {"tokenizer.ggml.merges": merges}, Tokenizer.from_gguf(llama_metadata)
    for text in TEXTS:
        ids = Tokenizer.from_gguf(with_merges).tokenize(text).ids.tolist()
        assert ids == scored.tokenize(text).ids.tolist()
    assert parts_from_gguf(with_merges).notes == ()
    assert "scores all tokens alike, so the order of merges is lost" in parts_from_gguf(lost).notes[0]


def test_sentencepiece_roles_that_the_file_leaves_out_are_the_usual_ones(llama_metadata: dict[str, Any]) -> None:
    bare = without(llama_metadata, "bos_token_id", "eos_token_id", "unknown_token_id")
    tokenizer = Tokenizer.from_gguf(bare)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert (
        tokenizer.tokenize("hello").ids.tolist() == Tokenizer.from_gguf(llama_metadata).tokenize("hello").ids.tolist()
    )


def test_separator_and_mask_have_roles_and_are_special(byte_metadata: dict[str, Any]) -> None:
    roles = {"tokenizer.ggml.seperator_token_id": 5, "tokenizer.ggml.mask_token_id": 6}
    parts = parts_from_gguf(byte_metadata | roles)
    tokens = byte_metadata["tokenizer.ggml.tokens"]
    assert (parts.names["sep_token"], parts.names["mask_token"]) == (tokens[5], tokens[6])
    assert Tokenizer(parts).special_ids >= {5, 6}


def test_an_id_that_no_token_has_is_passed_over_and_said(byte_metadata: dict[str, Any]) -> None:
    parts = parts_from_gguf(byte_metadata | {"tokenizer.ggml.padding_token_id": 4_294_967_295})
    assert "pad_token" not in parts.names
    assert parts.notes[0].startswith("the GGUF file says padding_token_id=4294967295, which its vocabulary of")


def test_tokens_without_a_spelling_keep_their_ids(byte_metadata: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_gguf(renamed(byte_metadata, ["", ""]))
    last = len(byte_metadata["tokenizer.ggml.tokens"]) + 1
    assert tokenizer.token(last) == f"[EMPTY_{last}]"


def test_of_several_chat_templates_the_plain_one_is_the_default(byte_metadata: dict[str, Any]) -> None:
    named = {"tokenizer.chat_template.tool_use": "T", "tokenizer.chat_template.rag": "R"}
    plain = byte_metadata["tokenizer.chat_template"]
    assert parts_from_gguf(byte_metadata | named).chat_template == plain
    bare = without(byte_metadata, "tokenizer.chat_template")
    parts = parts_from_gguf(bare | named)
    assert parts.chat_template is None
    assert "chat templates named tool_use, rag and none that is the default" in parts.notes[0]
    assert parts_from_gguf(bare | {"tokenizer.chat_template.rag": "R"}).chat_template == "R"
    assert parts_from_gguf(bare).chat_template is None
