"""GGUF: its values against the gguf package, its view as Hugging Face against models that it was written from."""

import re
import struct
import time
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from gguf import GGUFEndian, GGUFWriter
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from cutaway.ground.errors import BadCheckpoint, UnsupportedModel
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.files.gguf import hugging_face_view, open_gguf
from tests.weights.gguf_files import (
    GPT2,
    GPT2_NAMES,
    LLAMA,
    Tensors,
    as_gguf,
    llama_file,
    llama_tensors,
    tiny_llama,
    write,
)  # fmt: skip


def test_a_llama_is_the_model_it_was_written_from(tmp_path: Path) -> None:
    model = tiny_llama(attention_bias=True, mlp_bias=True)
    path = write(tmp_path / "m.gguf", "llama", LLAMA, llama_tensors(model), tokenizer__ggml__bos_token_id=1)
    config, tensors = hugging_face_view(open_gguf(path))
    assert set(tensors) == set(model.state_dict())
    for name, expected in model.state_dict().items():
        assert torch.equal(tensors[name].read(), expected), name
        for rows in (slice(0, 3), slice(5, 9), slice(7, 8), slice(3, None)):
            assert torch.equal(tensors[name].read(rows), expected[rows]), (name, rows)
    theirs = model.config.to_dict() | model.config.rope_parameters
    assert {name: theirs[name] for name in config if name != "architectures"} | {"architectures": ANY} == config
    assert config["rms_norm_eps"] == 1e-5
    assert config["attention_bias"] and config["mlp_bias"] and not config["tie_word_embeddings"]
    assert config["bos_token_id"] == 1 and "eos_token_id" not in config


def test_transformers_reads_the_same_from_the_same_file(tmp_path: Path) -> None:
    llama_file(tmp_path / "m.gguf", {"vocab_size": 11})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32).state_dict()
    _, ours = hugging_face_view(open_gguf(tmp_path / "m.gguf"))
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name].read(), theirs[name]) for name in ours)


def test_the_config_rebuilds_the_model(tmp_path: Path) -> None:
    model = tiny_llama(tie_word_embeddings=True).eval()
    path = write(tmp_path / "m.gguf", "llama", LLAMA, llama_tensors(model, tied=True))
    config, tensors = hugging_face_view(open_gguf(path))
    again = LlamaForCausalLM(LlamaConfig(**config)).eval()
    again.load_state_dict({name: tensor.read() for name, tensor in tensors.items()}, strict=False)
    again.tie_weights()
    ids = torch.tensor([[1, 5, 7, 2]])
    assert config["tie_word_embeddings"]
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_a_gpt2_has_its_matrices_in_by_out_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=32, n_layer=2, n_head=4, n_positions=16)).eval()
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    transposed = re.compile(r".*\.c_(attn|proj|fc)\.weight")
    ggml = as_gguf(state, GPT2_NAMES, lambda name, t: t.T if transposed.fullmatch(name) else t)
    config, tensors = hugging_face_view(open_gguf(write(tmp_path / "m.gguf", "gpt2", GPT2, ggml)))
    assert set(tensors) == set(state)
    for name, expected in state.items():
        assert tensors[name].shape == tuple(expected.shape)
        assert torch.equal(tensors[name].read(), expected), name
        assert torch.equal(tensors[name].read(slice(2, 5)), expected[2:5]), name
    again = GPT2LMHeadModel(GPT2Config(**config)).eval()
    again.load_state_dict({name: tensor.read() for name, tensor in tensors.items()}, strict=False)
    again.tie_weights()
    ids = torch.tensor([[1, 5, 7, 2]])
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_metadata_of_every_type_comes_back(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    values: dict[str, Any] = {
        "uint8": 200, "int8": -100, "uint16": 60000, "int16": -30000, "uint32": 4_000_000_000, "int32": -2_000_000_000,
        "uint64": 1 << 63, "int64": -(1 << 62), "float32": 0.5, "float64": 0.1, "bool": True, "string": "Ġß𝄞",
    }  # fmt: skip
    for kind, value in values.items():
        getattr(writer, f"add_{kind}")(f"a.{kind}", value)
    arrays = {"a.strings": ["x", "", "ß"], "a.ints": [1, -2], "a.floats": [0.5, 1.5], "a.bools": [True, False]}
    for key, array in arrays.items():
        writer.add_array(key, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    metadata = open_gguf(tmp_path / "m.gguf").metadata
    assert metadata == {"general.architecture": "llama", **{f"a.{k}": v for k, v in values.items()}, **arrays}


def test_a_large_vocabulary_is_read_fast(tmp_path: Path) -> None:
    words = [f"Ġword{i}" for i in range(49_152)]
    path = llama_file(tmp_path / "m.gguf", tokenizer__ggml__tokens=words, tokenizer__ggml__merges=words)
    start = time.perf_counter()
    assert open_gguf(path).metadata["tokenizer.ggml.tokens"] == words
    assert time.perf_counter() - start < 1.0  # 0.05 s here; the package's reader takes over 2


@pytest.mark.parametrize("keep", [0, 3, 10, 40, 300, 2000, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = llama_file(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadCheckpoint, match=r"found m.gguf(, which is an empty file,| ends too early).*fetch the file"):
        open_gguf(path)


HEADER = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k"
ALIGNMENT = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 17) + b"general.alignment"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ABCD" + bytes(40), r"found a file that begins with b'ABCD', m.gguf; expected a file that begins with GGUF"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(40), r"found GGUF version 1 in m.gguf; expected version 2 or 3"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), r"ends too early"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), r"ends too early"),
        (ALIGNMENT + struct.pack("<II", 4, 0), r"found general.alignment=0 in m.gguf; expected a sound GGUF file"),
        (HEADER + struct.pack("<I", 99), r"found a value of unknown type 99 in m.gguf"),
        (HEADER + struct.pack("<IIQ", 9, 9, 1), r"found an array of unknown type 9"),
        (HEADER + struct.pack("<IIQ", 9, 4, 1 << 60), r"ends too early"),
        (HEADER + struct.pack("<IQ", 8, 1) + b"\xff", r"found a string that is not UTF-8"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"t" + struct.pack("<I", 9), r"found a tensor with 9 axes"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"t" + struct.pack("<IQIQ", 1, 5, 8, 0) + bytes(99),
         r"found 't' of shape .5. in blocks of 32"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(BadCheckpoint, match=message):
        open_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04" + bytes(40), r"found m.gguf, which is a zip archive, in .*; unpack it"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            r"m.gguf, which is a Git LFS pointer.*git lfs pull",
        ),
        (b"<!DOCTYPE html><html><body>404</body></html>", r"m.gguf, which is a web page saved in its place.*download"),
        (b"\n<html lang='en'>" + bytes(9), r"m.gguf, which is a web page"),
        (b"tjgg" + bytes(40), r"m.gguf, which is a GGML file, older than GGUF"),
        (bytes(99), r"m.gguf, which is zeros, as an interrupted download leaves them"),
        (b"\x1f\x8b" + bytes(40), r"m.gguf, which is a gzip archive.*unpack it first"),
        (b"what" + bytes(40), r"found a file that begins with b'what', m.gguf; .*name a .gguf file, or fetch it again"),
    ],
)
def test_what_came_in_the_place_of_a_gguf_is_told(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(BadCheckpoint, match=message):
        open_gguf(tmp_path / "m.gguf")


def test_a_big_endian_file_is_refused_by_that_name(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "llama", endianess=GGUFEndian.BIG)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(BadCheckpoint, match=r"found a GGUF file for big-endian machines, m.gguf; expected a little"):
        open_gguf(tmp_path / "m.gguf")


def test_a_tensor_that_stands_twice_is_refused(tmp_path: Path) -> None:
    info = struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 1, 0, 0)
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + info + info + bytes(99))
    with pytest.raises(BadCheckpoint, match=r"found two tensors 't' in m.gguf"):
        open_gguf(tmp_path / "m.gguf")


def test_an_upper_case_ending_opens(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(llama_file(tmp_path / "MODEL.GGUF"))
    assert checkpoint.model_type == "llama" and checkpoint.notes == []


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "mamba", {}, {})
    with pytest.raises(UnsupportedModel, match=r"the architecture 'mamba', m.gguf; expected one of llama, gpt2"):
        hugging_face_view(open_gguf(path))


def test_a_vocabulary_that_is_none_is_refused_when_opened(tmp_path: Path) -> None:
    path = llama_file(tmp_path / "m.gguf", tokenizer__ggml__model="gpt2", tokenizer__ggml__tokens=5)
    with pytest.raises(BadCheckpoint, match=r"found tokenizer.ggml.tokens=5 in m.gguf; expected a sound GGUF file"):
        open_checkpoint(path)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    path = llama_file(tmp_path / "m.gguf", general__type="adapter")
    with pytest.raises(UnsupportedModel, match=r"found general.type='adapter' in m.gguf; expected a whole model"):
        hugging_face_view(open_gguf(path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope.dimension_count": 4}, r"found llama.rope.dimension_count=4 in m.gguf; expected 8"),
        ({"attention.value_length": 4}, r"found llama.attention.value_length=4 in m.gguf; expected 8"),
        ({"logit_scale": 2.0}, r"found llama.logit_scale=2.0 in m.gguf; expected 1"),
        ({"attention.causal": False}, r"found llama.attention.causal=False in m.gguf; expected True"),
        ({"attention.sliding_window": 32}, r"found llama.attention.sliding_window=32 in m.gguf; expected no window"),
        ({"final_logit_softcapping": 30.0}, r"found llama.final_logit_softcapping=30.0 in m.gguf; expected 0"),
        ({"rope.scaling.type": "longrope"}, r"found llama.rope.scaling.type='longrope'.*expected none, linear or yarn"),
        ({"rope.scaling.attn_factor": 2.0}, r"found llama.rope.scaling.attn_factor=2.0"),
        ({"feed_forward_length": [48, 64]}, r"found llama.feed_forward_length=.48, 64.*one value for all layers"),
    ],
)
def test_metadata_that_changes_values_is_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        hugging_face_view(open_gguf(llama_file(tmp_path / "m.gguf", values)))


def test_metadata_that_changes_nothing_is_let_through_and_told_once_where_it_means_something(tmp_path: Path) -> None:
    off = {
        "expert_count": 0, "expert_used_count": 0, "logit_scale": 1.0, "residual_scale": 0.0, "vocab_size": 11,
        "rope.scaling.finetuned": True, "rope.scaling.attn_factor": 1.0, "tensor_data_layout": "Meta AI original pth",
        "attention.causal": True, "attention.sliding_window": 64, "unheard_of": 0, "unset": "",
    }  # fmt: skip
    notes: list[str] = []
    plain, _ = hugging_face_view(open_gguf(llama_file(tmp_path / "m.gguf")))
    assert hugging_face_view(open_gguf(llama_file(tmp_path / "m.gguf", off)), notes.append)[0] == plain
    assert notes == []
    told = off | {"author_mood": "good", "interleave": 3}
    assert hugging_face_view(open_gguf(llama_file(tmp_path / "m.gguf", told)), notes.append)[0] == plain
    assert notes == ["m.gguf also says author_mood='good', interleave=3, which no forward pass of a llama reads"]


def test_one_value_a_layer_will_do_where_all_agree(tmp_path: Path) -> None:
    config, _ = hugging_face_view(open_gguf(llama_file(tmp_path / "m.gguf", {"feed_forward_length": [48, 48]})))
    assert config["intermediate_size"] == 48


def test_missing_metadata_and_unknown_tensors_are_named(tmp_path: Path) -> None:
    without = {key: value for key, value in LLAMA.items() if key != "block_count"}
    path = write(tmp_path / "m.gguf", "llama", without, llama_tensors(tiny_llama()))
    with pytest.raises(BadCheckpoint, match=r"found llama.block_count=None in m.gguf; expected a value of type int"):
        hugging_face_view(open_gguf(path))
    path = llama_file(tmp_path / "m.gguf", extra={"blk.0.attn_q_norm.weight": np.zeros(8, np.float32)})
    with pytest.raises(BadCheckpoint, match=r"found the tensor 'blk.0.attn_q_norm.weight' in m.gguf"):
        hugging_face_view(open_gguf(path))
    path = llama_file(tmp_path / "m.gguf", {"block_count": 1 << 24})  # a damaged byte: not built before it is refused
    with pytest.raises(BadCheckpoint, match=r"found llama.block_count=16777216 and tensors of 2 layers in m.gguf"):
        hugging_face_view(open_gguf(path))
    path = write(tmp_path / "m.gguf", "llama", LLAMA, {})
    with pytest.raises(BadCheckpoint, match=r"found no token_embd.weight in m.gguf"):
        hugging_face_view(open_gguf(path))


def scaling(path: Path, values: dict[str, Any], extra: Tensors | None = None) -> Any:
    config, _ = hugging_face_view(open_gguf(llama_file(path / "m.gguf", values, extra)))
    return config.get("rope_scaling")


def test_rope_scaling_is_translated(tmp_path: Path) -> None:
    assert scaling(tmp_path, {}) is None
    assert scaling(tmp_path, {"rope.scaling.type": "none", "rope.scaling.factor": 4.0}) is None
    linear = {"rope_type": "linear", "factor": 4.0}
    assert scaling(tmp_path, {"rope.scaling.factor": 4.0}) == linear
    assert scaling(tmp_path, {"rope.scale_linear": 4.0}) == linear
    yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16}
    expected = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32.0,
                "beta_slow": 1.0}  # fmt: skip
    assert scaling(tmp_path, yarn) == expected
    stronger = scaling(tmp_path, yarn | {"rope.scaling.attn_factor": 2.0})
    assert stronger == expected | {"attention_factor": pytest.approx(2.277258872)}


def llama3_divisors(theta: float, dims: int, factor: float) -> np.ndarray[Any, Any]:
    """The rope_freqs.weight of a Llama 3: transformers' plain frequencies over its scaled ones."""
    rope = {"rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    model = tiny_llama(rope_parameters=rope, head_dim=dims)
    plain = 1.0 / theta ** (torch.arange(0, dims, 2).float() / dims)
    return (plain / model.model.rotary_emb.inv_freq).numpy()


def test_llama3_scaling_is_recovered_from_its_divisors(tmp_path: Path) -> None:
    values = {"rope.freq_base": 500000.0, "context_length": 131072}
    divisors = llama3_divisors(500000.0, 8, 32.0)
    got = scaling(tmp_path, values, {"rope_freqs.weight": divisors})
    assert got == {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 8192}  # fmt: skip
    assert scaling(tmp_path, values, {"rope_freqs.weight": np.ones(4, np.float32)}) is None


@pytest.mark.parametrize("divisors", [[1.0, 2.0, 3.0, 32.0], [1.0, 32.0]])
def test_other_divisors_are_refused(tmp_path: Path, divisors: list[float]) -> None:
    extra: Tensors = {"rope_freqs.weight": np.array(divisors, np.float32)}
    with pytest.raises(UnsupportedModel, match=r"found rope_freqs.weight in m.gguf with divisors up to 32"):
        scaling(tmp_path, {"rope.freq_base": 500000.0}, extra)
    with pytest.raises(UnsupportedModel, match=r"found llama.rope.scaling.factor=2.0"):
        scaling(tmp_path, {"rope.scaling.factor": 2.0}, extra)
    both = {f"rope_factors_{which}.weight": np.ones(4, np.float32) for which in ("long", "short")}
    with pytest.raises(UnsupportedModel, match=r"found llama.rope.scaling.factor=2.0 in m.gguf; expected 1.0;"):
        scaling(tmp_path, {"rope.scaling.factor": 2.0}, both)


def test_rows_that_are_no_whole_heads_are_refused(tmp_path: Path) -> None:
    path = llama_file(tmp_path / "m.gguf", extra={"blk.0.attn_k.weight": np.zeros((12, 32), np.float32)})
    with pytest.raises(BadCheckpoint, match=r"k_proj.weight' with 12 rows for heads of 8 in m.gguf"):
        hugging_face_view(open_gguf(path))


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("name", ["token_embd.weight", "blk.1.attn_k.weight", "blk.0.ffn_norm.weight", "output.weight",
                                  "blk.1.attn_q.bias"])  # fmt: skip
def test_whole_numbers_are_no_weights(tmp_path: Path, name: str, kind: Any) -> None:
    """llama.cpp stores no weights so: they would be codes of another tool, whose scales nobody named."""
    tensors = llama_tensors(tiny_llama(attention_bias=True))
    path = write(tmp_path / "m.gguf", "llama", LLAMA, tensors | {name: (tensors[name] * 9).astype(kind)})
    with pytest.raises(UnsupportedModel, match=rf"in {np.dtype(kind).name} in m.gguf; expected weights in float64"):
        open_checkpoint(path)
