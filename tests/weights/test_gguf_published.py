"""Metadata of published GGUF files, around tiny weights: tokenizer, ends, rotary positions and norms are read right."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH_NAMES, MODEL_TENSORS, TENSOR_NAMES

import cutaway
from cutaway.ground.config import DecoderConfig, RopeConfig
from cutaway.ground.errors import NoTokenizer
from cutaway.lm import LM
from cutaway.text.from_gguf import merges_from_scores
from cutaway.text.spelling import SPACE, byte_alphabet
from cutaway.weights.families import facts_of
from cutaway.weights.files.gguf import GGUF, hugging_face_view
from cutaway.weights.files.lazy import LazyTensor
from tests.weights.gguf_files import Tensors, write

PUBLISHED = Path(__file__).parents[1] / "published" / "gguf"
WIDTH, LAYERS = 32, 2
SIZES = {"block_count": LAYERS, "embedding_length": WIDTH, "feed_forward_length": 48, "rope.dimension_count": 8}
LLAMA3 = {
    128_000: "<|begin_of_text|>",
    128_001: "<|end_of_text|>",
    128_006: "<|start_header_id|>",
    128_009: "<|eot_id|>",
}
SMOLLM2 = {0: "<|endoftext|>", 1: "<|im_start|>", 2: "<|im_end|>"}


def table(name: str) -> dict[str, Any]:
    return json.loads((PUBLISHED / f"{name}.json").read_text(encoding="utf-8"))


def byte_level(count: int, control: dict[int, str]) -> dict[str, Any]:
    """A vocabulary of the published size: the byte alphabet, three words, and control tokens at their published ids."""
    alphabet = sorted(byte_alphabet(), key=byte_alphabet().__getitem__)
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]
    words = [*alphabet, *(a + b for a, b in merges)]
    free = iter([*words, *(f"filler{i}" for i in range(count))])
    tokens = [control.get(id_) or next(free) for id_ in range(count)]
    types = [3 if id_ in control else 1 for id_ in range(count)]
    return {"tokens": tokens, "token_type": types, "merges": [f"{a} {b}" for a, b in merges]}


def sentencepiece(count: int) -> dict[str, Any]:
    """The same of Llama 2's kind."""
    raw, words = [f"<0x{byte:02X}>" for byte in range(256)], ["th", "the", f"{SPACE}the", SPACE, *"abcdefght"]
    tokens = ["<unk>", "<s>", "</s>", *raw, *words]
    tokens += [f"filler{i}" for i in range(count - len(tokens))]
    types = [2, 3, 3, *[6] * 256, *[1] * (count - 259)]
    scores = [0.0] * 259 + [-float(i) for i in range(count - 259)]
    merges = [" ".join(pair) for pair in merges_from_scores(tokens, scores, types)]
    return {"tokens": tokens, "token_type": types, "scores": scores, "merges": merges}


def tensors(vocabulary: int, heads: int, kv_heads: int) -> Tensors:
    rng, kv = np.random.default_rng(0), WIDTH // heads * kv_heads
    shapes = {
        "attn_q": (WIDTH, WIDTH), "attn_k": (kv, WIDTH), "attn_v": (kv, WIDTH), "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (48, WIDTH), "ffn_up": (48, WIDTH), "ffn_down": (WIDTH, 48), "attn_norm": (WIDTH,),
        "ffn_norm": (WIDTH,),
    }  # fmt: skip
    every = {f"blk.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in shapes.items()}
    every |= {"token_embd.weight": (vocabulary, WIDTH), "output_norm.weight": (WIDTH,)}
    return {name: rng.standard_normal(shape, dtype=np.float32).astype(np.float16) for name, shape in every.items()}


def built(path: Path, said: dict[str, Any], vocabulary: dict[str, Any], version: int = 3) -> Path:
    """A file with the published table, its sizes shrunk and its arrays made anew; heads keep their ratio."""
    architecture = said["general.architecture"]
    heads = 4
    kv_heads = max(
        1, 4 * said[f"{architecture}.attention.head_count_kv"] // said[f"{architecture}.attention.head_count"]
    )
    sizes = SIZES | {"attention.head_count": heads, "attention.head_count_kv": kv_heads}
    values = {key: value for key, value in said.items() if "." in key and not isinstance(value, dict)}
    values |= {key: sizes[bare] for key in values if (bare := key.removeprefix(f"{architecture}.")) in sizes}
    values |= {f"tokenizer.ggml.{key}": array for key, array in vocabulary.items() if f"tokenizer.ggml.{key}" in said}
    del values["general.architecture"]
    write(path, architecture, {}, tensors(len(vocabulary.get("tokens", "x" * 11)), heads, kv_heads), **values)
    data = path.read_bytes()
    path.write_bytes(data[:4] + version.to_bytes(4, "little") + data[8:])
    return path


def opened(path: Path, name: str, vocabulary: dict[str, Any], version: int = 3) -> LM:
    return cutaway.load(built(path / f"{name}.gguf", table(name), vocabulary, version), quantize=None)


def ids(lm: LM, text: str) -> list[int]:
    return lm.tokenize(text).ids[0].tolist()


def test_llama_3_8b_instruct(tmp_path: Path) -> None:
    lm = opened(tmp_path, "llama-3-8b-instruct-f16", byte_level(128_256, LLAMA3))
    tokens = lm.checkpoint.gguf_metadata["tokenizer.ggml.tokens"]  # type: ignore[index]
    assert ids(lm, "the the") == [128_000, tokens.index("the"), tokens.index("Ġthe")]  # BOS, which the rule implies
    assert [p.text for p in lm.tokenize("1234").pieces[0]] == ["<|begin_of_text|>", "1", "2", "3", "4"]  # type: ignore[index]
    assert lm.eos_ids == {128_001, 128_009}  # the file names only the end of a chat turn
    assert lm.notes == [] and "says that it stores F16; read exactly" in str(lm)
    assert lm.config.rope is not None
    assert (lm.config.rope.theta, lm.config.rope.kind) == (500_000.0, "default")
    assert (lm.config.n_heads, lm.config.n_kv_heads, lm.config.n_positions) == (4, 1, 8192)
    assert lm.config.norm_eps == 1e-5 and lm.config.tied_head
    assert lm.tokenizer.chat_template is not None


def test_smollm2_17b_instruct(tmp_path: Path) -> None:
    lm = opened(tmp_path, "smollm2-1.7b-instruct-q4_k_m", byte_level(49_152, SMOLLM2))
    assert [p.text for p in lm.tokenize("the 12").pieces[0]] == ["the", " ", "1", "2"]  # type: ignore[index]
    assert lm.eos_ids == {0, 2}
    assert (lm.tokenizer.bos_id, lm.tokenizer.eos_id, lm.tokenizer.pad_id) == (1, 2, 2)
    assert lm.config.rope is not None
    assert lm.config.rope.theta == 130_000.0
    assert (lm.config.n_kv_heads, lm.config.n_positions) == (4, 8192)


def test_tinyllama_chat_with_a_sentencepiece_vocabulary_and_merges(tmp_path: Path) -> None:
    lm = opened(tmp_path, "tinyllama-1.1b-chat-v1.0-q2_k", sentencepiece(32_000))
    tokens = lm.checkpoint.gguf_metadata["tokenizer.ggml.tokens"]  # type: ignore[index]
    assert ids(lm, "the é") == [1, tokens.index(f"{SPACE}the"), tokens.index(SPACE), 3 + 0xC3, 3 + 0xA9]
    assert lm.eos_ids == {2} and lm.tokenizer.pad_id == 2
    assert lm.checkpoint.notes == []
    assert lm.config.rope is not None
    assert (lm.config.rope.theta, lm.config.n_positions) == (10_000.0, 2048)


def test_llama_2_7b_chat_of_gguf_version_2_without_a_vocabulary(tmp_path: Path) -> None:
    lm = opened(tmp_path, "llama-2-7b-chat-q2_k-v2", {}, version=2)
    assert lm.config.norm_eps == 1e-6
    assert (lm.config.n_kv_heads, lm.config.n_positions) == (4, 4096)
    assert lm.eos_ids == frozenset()
    assert lm.logits(torch.tensor([[1, 2]])).shape == (1, 2, 11)
    with pytest.raises(NoTokenizer, match=r"without a vocabulary .*pass ids instead of text"):
        _ = lm.tokenizer


# A table, the config.json of the same model, and what differs between the two: the published epsilons.
SAME = {
    "gemma-2-2b-it-q4_k_m": ("gemma/gemma-2-2b", {}),
    "gemma-3-1b-it-q4_k_m": ("gemma/gemma-3-1b-it", {}),
    "llama-2-7b-chat-q2_k-v2": ("llama/llama-2-7b-chat-hf", {"norm_eps": 1e-6}),
    "llama-3-8b-instruct-f16": ("llama/meta-llama-3-8b", {}),
    "smollm2-1.7b-instruct-q4_k_m": ("llama/smollm2-1.7b-instruct", {}),
    "tinyllama-1.1b-chat-v1.0-q2_k": ("llama/tinyllama-1.1b-chat-v1.0", {}),
}


def facts_of_table(name: str, vocabulary: int, tied: bool) -> DecoderConfig:
    """The facts of a published table with the tensors of its architecture, of which only the table's rows are known."""
    said = table(name)
    architecture = said["general.architecture"]
    kinds = MODEL_TENSORS[{kind: number for number, kind in MODEL_ARCH_NAMES.items()}[architecture]]
    stems = {TENSOR_NAMES[kind] for kind in kinds} - {"rope_freqs", "blk.{bid}.attn_rot_embd"}
    stems = {stem for stem in stems if not re.search("exps|gate_inp", stem) and not (tied and stem == "output")}
    names = {f"{stem.format(bid=i)}.weight" for stem in stems for i in range(said[f"{architecture}.block_count"])}
    rows = dict.fromkeys(names, said[f"{architecture}.embedding_length"]) | {"token_embd.weight": vocabulary}
    lazy = {name: LazyTensor(name, (count,), torch.float32, unread) for name, count in rows.items()}
    metadata = {key: value for key, value in said.items() if not key.startswith("tokenizer.")}
    config, _ = hugging_face_view(GGUF(metadata, lazy, Path(f"{name}.gguf")))
    return facts_of(config, lambda line: None)[1]


def unread(start: int, stop: int) -> torch.Tensor:
    raise AssertionError("facts need names and shapes only")


@pytest.mark.parametrize("name", SAME)
def test_a_published_table_has_the_facts_of_the_models_config_json(name: str) -> None:
    of, differs = SAME[name]
    config = json.loads((PUBLISHED.parent / f"{of}.json").read_text(encoding="utf-8"))
    _, expected = facts_of(config, lambda line: None)
    assert facts_of_table(name, expected.vocab_size, expected.tied_head) == replace(expected, **differs)


def test_tables_whose_config_json_is_not_at_hand_open() -> None:
    qwen = facts_of_table("qwen2.5-1.5b-instruct-q5_k_m", 151_936, True)
    assert qwen.rope == RopeConfig(1e6, 128) and qwen.qkv_bias and not qwen.out_bias and not qwen.layer_windows
    gemma = facts_of_table("gemma-1.1-2b-it-q8_0-merged-split-count-0", 256_000, True)
    assert (gemma.d_head, gemma.n_kv_heads, gemma.gain_plus_one, gemma.activation) == (256, 1, True, "gelu_tanh")
