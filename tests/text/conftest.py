"""Small tokenizers made here: a byte-level one by hand (exact ids), one that was trained, and a SentencePiece one."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cutaway.text.parts import Parts
from cutaway.text.spelling import SPACE, byte_alphabet
from cutaway.text.stream import StreamDecoder
from cutaway.text.tokenizer import Tokenizer
from tests.tiny import byte_level

WORDS = ["I", "Ġlike", "ĠMachine", "ĠLearning", "The", "Ġsun", "Ġrises", "Ġin", "Ġthe", "Ġeast"]
SENTENCES = [
    "the cat sat on the mat",
    "the dog ran to the cat",
    "naïve café 🙂🙂 日本語 日本",
    "def f(x): return x + 1",
] * 3


OPT_FILES = Path(__file__).parents[2].parent / "shared" / "opt-tokenizer"


def streamed(tokenizer: Tokenizer, ids: list[int], skip: bool = True) -> list[str]:
    stream = StreamDecoder(tokenizer, skip_special_tokens=skip)
    return [*(stream.push(i) for i in ids), stream.flush()]


def as_transformers(folder: Path, texts: Sequence[str]) -> Tokenizer:
    """The folder's tokenizer, its ids and texts, roles and chat template those of transformers."""
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer = Tokenizer.from_folder(folder)
    for text in texts:
        ids = reference(text).input_ids
        assert tokenizer.backend.encode(text).ids == ids, text
        for skip in (True, False):
            assert tokenizer.decode(ids, skip) == reference.decode(ids, skip_special_tokens=skip)
    for role in ("bos", "eos", "pad"):
        assert getattr(tokenizer, f"{role}_id") == getattr(reference, f"{role}_token_id")
    template = reference.chat_template
    assert tokenizer.chat_template == (template.get("default") if isinstance(template, dict) else template)
    return tokenizer


@pytest.fixture
def bare_opt(tmp_path: Path) -> Path:
    """facebook/opt-1.3b's tokenizer, as bare as on the hub's main branch."""
    if not OPT_FILES.is_dir():
        pytest.skip("OPT's vocabulary is test data beside the repository, and is not there")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(OPT_FILES / name, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "opt"}')
    return tmp_path


def chain(words: list[str]) -> list[tuple[str, str]]:
    """Merges that build each word from its left end: T+h, Th+e."""
    return list(dict.fromkeys((word[:n], word[n]) for word in words for n in range(1, len(word))))


@pytest.fixture(scope="session")
def opt_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only vocab.json, merges.txt and a config.json: what facebook/opt-1.3b has. Whole words begin at id 1000."""
    folder = tmp_path_factory.mktemp("opt")
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(byte_alphabet(), key=byte_alphabet().__getitem__)]
    vocab = {token: i for i, token in enumerate(tokens)}
    for left, right in chain(WORDS):
        whole = left + right
        vocab[whole] = 1000 + WORDS.index(whole) if whole in WORDS else len(vocab)
    vocab["I"] = 1000  # a single byte that is a word
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    merges = "\n".join(f"{left} {right}" for left, right in chain(WORDS))
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges + "\n", encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "opt"}')
    return folder


@pytest.fixture(scope="session")
def opt(opt_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(opt_folder)


@pytest.fixture(scope="session")
def trained() -> Tokenizer:
    """Byte-level BPE trained on a few sentences, so that some pieces are whole characters and some are halves."""
    return Tokenizer(Parts(byte_level(SENTENCES, 330), {"eos_token": "<|end|>"}))


@pytest.fixture(scope="session")
def byte_metadata() -> dict[str, Any]:
    """GGUF metadata of a byte-level vocabulary with SmolLM2's splitting rule and a chat template."""
    alphabet = sorted(byte_alphabet(), key=byte_alphabet().__getitem__)
    merges = chain(["the", "Ġthe", "Ġcat", "ĠĠĠ", "12", "Ġ1", "ðŁĻĤ"])
    tokens = ["<|end|>", "<|start|>", *alphabet, *dict.fromkeys(a + b for a, b in merges), "<think>"]
    template = "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    return {
        "general.architecture": "llama",
        "llama.context_length": 64,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, *[1] * (len(tokens) - 3), 4],
        "tokenizer.ggml.merges": [f"{a} {b}" for a, b in merges],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": template + "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}",
    }


@pytest.fixture(scope="session")
def llama_metadata() -> dict[str, Any]:
    """GGUF metadata of a SentencePiece vocabulary: control tokens, 256 bytes, letters and a few longer pieces."""
    pieces = ["he", "ll", "lo", "llo", "hello", "el", "wor", "or", "ld", "world", "cat", "at", "ca"]
    letters = [SPACE, *"abcdefghijklmnopqrstuvwxyzé"]
    longer = [SPACE + SPACE, *pieces, *(SPACE + piece for piece in ("h", "he", "hello", "w", "wor", "world", "c"))]
    raw = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *raw, *longer, *letters]
    scores = [0.0] * 259 + [-float(n) for n in range(len(longer) + len(letters))]
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * (len(longer) + len(letters))],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
