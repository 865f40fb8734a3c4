"""SentencePiece vocabularies in GGUF files, as llama.cpp's converter writes them: ids, text and streamed text are those
of transformers from the tokenizer.model, and SentencePiece's own."""

import io
import json
import random
from pathlib import Path
from typing import Any

import gguf
import pytest

from cutaway.ground.errors import NoTokenizer
from cutaway.text.sentencepiece_file import read_sentencepiece
from cutaway.text.tokenizer import Tokenizer
from cutaway.weights.files.gguf_format import open_part
from tests.text.conftest import streamed
from tests.text.test_kinds import PAGE, covers

spm = pytest.importorskip("sentencepiece", reason="sentencepiece trains the vocabularies of these tests")

SENTENCES = [*PAGE, "the cat sat on 12 mats  and   ran", "    return the", "\t\tif x:\n\n\n", "user: hello"] * 20
RUNS = ["\n" * n for n in range(1, 6)] + ["▁" * n for n in range(2, 32)]
GEMMA = {
    "add_dummy_prefix": False, "split_digits": True, "allow_whitespace_only_pieces": True,
    "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "eos_piece": "<eos>", "bos_piece": "<bos>",
    "control_symbols": ["<start_of_turn>", "<end_of_turn>"],
    "user_defined_symbols": [*RUNS, "<table>", "</table>", "\t\t", "\t\t\t"],
}  # fmt: skip
LETTERS = [*"the cat sat\n\t\r🙂é日Ж12(<)\x00\u200d ", "  ", "   ", " " * 9, "\n\n", "\t\t", "<table>", "ﬁ", "👩‍👧"]


def trained(**options: Any) -> bytes:
    written = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=written,
        model_type="bpe",
        vocab_size=620,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.995,
        minloglevel=2,
        **options,
    )
    return written.getvalue()


def converted(path: Path, data: bytes, architecture: str, added: tuple[str, ...] = (), own: bool = True) -> Tokenizer:
    """The tokenizer of a GGUF of this tokenizer.model. added: control tokens after it. own: the file says which tokens
    are user-defined, as converters do since July 2024."""
    model = read_sentencepiece(data)
    listed = list(zip(model.pieces, model.scores, map(int, model.kinds), strict=True))
    if own:
        listed = [
            (text.replace("▁", " "), -1000.0, kind) if kind == 4 else (text, score, kind)
            for text, score, kind in listed
        ]
    else:
        listed = [(text, score, 1 if kind == 4 else kind) for text, score, kind in listed]
    listed += [(text, -1000.0, 3) for text in added]
    reference = spm.SentencePieceProcessor(model_proto=data)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tokenizer_model("llama")
    tokens, scores, types = map(list, zip(*listed, strict=True))
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(reference.bos_id())
    writer.add_eos_token_id(reference.eos_id())
    writer.add_unk_token_id(reference.unk_id())
    writer.add_add_bos_token(True)
    if own and architecture.startswith("gemma"):
        writer.add_add_space_prefix(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Tokenizer.from_gguf(open_part(path).metadata)


def of_transformers(folder: Path, data: bytes, model_type: str, **config: Any) -> Any:
    from transformers import AutoTokenizer

    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(data)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True} | config))
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def texts() -> list[str]:
    drawn = random.Random(7)
    return [*PAGE, "\n".join(PAGE), " ", *("".join(drawn.choices(LETTERS, k=drawn.randint(1, 20))) for _ in range(150))]


@pytest.mark.parametrize("own", [True, False], ids=["user-defined", "as before July 2024"])
@pytest.mark.parametrize("architecture", ["gemma", "gemma2", "gemma3"])
def test_gemma_as_transformers_and_sentencepiece(architecture: str, own: bool, tmp_path: Path) -> None:
    data = trained(**GEMMA)
    tokenizer = converted(tmp_path / "model.gguf", data, architecture, own=own)
    model_type = "gemma3_text" if architecture == "gemma3" else architecture
    reference = of_transformers(tmp_path / "folder", data, model_type, tokenizer_class="GemmaTokenizer")
    plain = spm.SentencePieceProcessor(model_proto=data)
    for text in texts():
        if "         " * 4 in text:  # transformers cuts more spaces than the longest token has differently
            continue
        tokens, ids = tokenizer.tokenize(text), reference(text).input_ids
        assert tokens.ids[0].tolist() == ids, text
        if "<unk>" not in text:  # a special token, of which SentencePiece knows nothing in a text
            assert ids == [2, *plain.encode(text)]
            assert tokenizer.decode(ids) == plain.decode(ids[1:])
        assert tokenizer.decode(ids, False) == "".join(streamed(tokenizer, ids, False)) == reference.decode(ids)
        assert tokens.pieces is not None
        assert covers(text, [piece.span for piece in tokens.pieces[0] if piece.span is not None]), text


def test_a_gemma_without_scores_or_with_all_alike_is_told(tmp_path: Path) -> None:
    converted(tmp_path / "model.gguf", trained(**GEMMA), "gemma")
    metadata = dict(open_part(tmp_path / "model.gguf").metadata)
    scores = metadata.pop("tokenizer.ggml.scores")
    with pytest.raises(NoTokenizer, match=r"SentencePiece tokens without tokenizer.ggml.scores"):
        Tokenizer.from_gguf(metadata)
    alike = Tokenizer.from_gguf(metadata | {"tokenizer.ggml.scores": [0.0] * len(scores)})
    assert any("IDS MAY DIFFER" in note for note in alike.notes)


def test_a_long_run_of_spaces_is_cut_as_gemma_was_trained(tmp_path: Path) -> None:
    data = trained(**GEMMA)
    tokenizer = converted(tmp_path / "model.gguf", data, "gemma2")
    for count in (31, 32, 33, 75):
        ids = spm.SentencePieceProcessor(model_proto=data).encode("x" + " " * count + "the")
        assert tokenizer.backend.encode("x" + " " * count + "the", add_special_tokens=False).ids == ids


@pytest.mark.parametrize("architecture", ["llama", "phi3"])
def test_llama_2_mistral_and_phi_3_as_sentencepiece(architecture: str, tmp_path: Path) -> None:
    data = trained()
    tokenizer = converted(tmp_path / "model.gguf", data, architecture)
    plain = spm.SentencePieceProcessor(model_proto=data)
    for text in texts():
        if "<s>" not in text:
            ids = tokenizer.tokenize(text).ids[0].tolist()
            assert ids == [1, *plain.encode(text)]
            assert tokenizer.decode(ids) == "".join(streamed(tokenizer, ids)) == plain.decode(ids) == text


def test_phi_3s_special_tokens_take_the_white_space_after_them(tmp_path: Path) -> None:
    data, chat = trained(), ("<|endoftext|>", "<|user|>", "<|end|>")
    phi3 = converted(tmp_path / "phi3.gguf", data, "phi3", chat)
    llama = converted(tmp_path / "llama.gguf", data, "llama", chat)
    plain = spm.SentencePieceProcessor(model_proto=data)
    of_text, user, end = (plain.get_piece_size() + n for n in range(3))
    text = "<|user|>\n the cat<|end|>\n<|endoftext|> the"
    expected = [user, *plain.encode("the cat"), end, of_text, *plain.encode(" the")]
    assert phi3.backend.encode(text, add_special_tokens=False).ids == expected
    kept = [user, *plain.encode("\n the cat"), end, *plain.encode("\n"), of_text, *plain.encode(" the")]
    assert llama.backend.encode(text, add_special_tokens=False).ids == kept


def test_mistrals_of_2024_put_a_space_before_the_text_only(tmp_path: Path) -> None:
    data = trained(control_symbols=["[INST]", "[/INST]"])
    tokenizer = converted(tmp_path / "model.gguf", data, "llama")
    reference = of_transformers(tmp_path / "folder", data, "mistral", tokenizer_class="LlamaTokenizer", legacy=False)
    for text in ["[INST] the cat[/INST]", "the cat[INST]sat [/INST] the</s>\n[INST]", " the", "[/INST]the"]:
        ids = tokenizer.tokenize(text).ids[0].tolist()
        assert ids == reference(text).input_ids, text
        assert tokenizer.decode(ids, False) == reference.decode(ids)
