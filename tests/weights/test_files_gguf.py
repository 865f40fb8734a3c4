"""GGUF: its values against the gguf package, its view as Hugging Face against models that it was written from."""

import re
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from cutaway.ground.errors import BadCheckpoint, UnsupportedModel
from cutaway.weights.files import gguf_format
from cutaway.weights.files.gguf import GPT2_NAMES, LLAMA_NAMES, hugging_face_view, open_gguf

Tensors = dict[str, np.ndarray[Any, Any]]
LLAMA: dict[str, Any] = {
    "block_count": 2,
    "context_length": 64,
    "embedding_length": 32,
    "feed_forward_length": 48,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 10000.0,
    "rope.dimension_count": 8,
}
GPT2: dict[str, Any] = {
    "block_count": 2,
    "context_length": 16,
    "embedding_length": 32,
    "feed_forward_length": 128,
    "attention.head_count": 4,
    "attention.layer_norm_epsilon": 1e-5,
}


def write(path: Path, architecture: str, values: dict[str, Any], tensors: Tensors, **whole: Any) -> Path:
    """A GGUF file; values are the architecture's, `whole` (with __ for .) are keys as they are."""
    writer = GGUFWriter(path, architecture)
    adders: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
        list: writer.add_array,
    }  # fmt: skip
    for key, value in values.items():
        adders[type(value)](f"{architecture}.{key}", value)
    for key, value in whole.items():
        adders[type(value)](key.replace("__", "."), value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def permuted(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """What llama.cpp does to q and k (convert_hf_to_gguf.py): halves of a head become neighbours."""
    shape = (heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return rows.reshape(shape).transpose(1, 2).reshape(rows.shape)


def as_gguf(
    state: dict[str, torch.Tensor], names: dict[str, str], to_ggml: Callable[[str, torch.Tensor], Any]
) -> Tensors:
    back = {re.escape(ours).replace(r"\{i\}", r"(\d+)"): theirs for theirs, ours in names.items()}
    tensors: Tensors = {}
    for name, tensor in state.items():
        for pattern, theirs in back.items():
            if match := re.fullmatch(pattern, name):
                layer = match[1] if match.re.groups else ""
                tensors[theirs.replace("{i}", layer)] = to_ggml(name, tensor.detach()).contiguous().numpy()
    return tensors


def tiny_llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, **changes,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():  # biases too, which start as zeros
        torch.nn.init.normal_(parameter)
    return model


def llama_tensors(model: LlamaForCausalLM, tied: bool = False) -> Tensors:
    def to_ggml(name: str, tensor: torch.Tensor) -> torch.Tensor:
        heads = 4 if ".q_proj." in name else 2 if ".k_proj." in name else 0
        return permuted(tensor, heads) if heads else tensor

    state = {name: tensor for name, tensor in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    return as_gguf(state, LLAMA_NAMES, to_ggml)


def llama_file(path: Path, values: dict[str, Any] | None = None, extra: Tensors | None = None, **whole: Any) -> Path:
    return write(path, "llama", LLAMA | (values or {}), llama_tensors(tiny_llama()) | (extra or {}), **whole)


def test_a_llama_is_the_model_it_was_written_from(tmp_path: Path) -> None:
    model = tiny_llama(attention_bias=True, mlp_bias=True)
    path = write(tmp_path / "m.gguf", "llama", LLAMA, llama_tensors(model), tokenizer__ggml__bos_token_id=1)
    config, tensors = hugging_face_view(open_gguf(path))
    assert set(tensors) == set(model.state_dict())
    for name, expected in model.state_dict().items():
        assert torch.equal(tensors[name].read(), expected), name
        for rows in (slice(0, 3), slice(5, 9), slice(7, 8), slice(3, None)):
            assert torch.equal(tensors[name].read(rows), expected[rows]), (name, rows)
    for name, value in config.items():
        assert name == "architectures" or getattr(model.config, name, value) == value, name
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
    turned = re.compile(r".*\.c_(attn|proj|fc)\.weight")
    ggml = as_gguf(state, GPT2_NAMES, lambda name, t: t.T if turned.fullmatch(name) else t)
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


def blocks(kind: Kind, rows: int, width: int) -> np.ndarray[Any, Any]:
    """Stored bytes [rows, …]: quantized where the package can, else random codes under small, finite scales."""
    rng = np.random.default_rng(0)
    try:
        return gguf.quants.quantize(rng.standard_normal((rows, width), dtype=np.float32), kind)
    except NotImplementedError:
        elements, nbytes = gguf.GGML_QUANT_SIZES[kind]
        raw = rng.integers(0, 256, (rows, width // elements, nbytes), dtype=np.uint8)
        scale = np.frombuffer(np.array([0.01, 0.02], np.float16).tobytes(), np.uint8)
        if kind is Kind.Q6_K:
            raw[:, :, -2:] = scale[:2]
        else:
            raw[:, :, :4] = scale
        return raw.reshape(rows, -1)


@pytest.mark.parametrize("at_once", [1 << 22, 512])
@pytest.mark.parametrize("name", ["F32", "F16", "BF16", *(name for name, _, _ in gguf_format.BLOCKS.values())])
def test_every_quantization_is_read_as_the_package_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at_once: int
) -> None:
    monkeypatch.setattr(gguf_format, "AT_ONCE", at_once)
    kind, stored = Kind[name], blocks(Kind[name], 6, 512)
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("two", stored, raw_dtype=kind)
    writer.add_tensor("three", stored.reshape(3, 2, -1), raw_dtype=kind)
    writer.add_tensor("one", stored[0], raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = torch.from_numpy(gguf.quants.dequantize(stored, kind).copy())
    tensors = open_gguf(tmp_path / "m.gguf").tensors
    assert {n: t.shape for n, t in tensors.items()} == {"two": (6, 512), "three": (3, 2, 512), "one": (512,)}
    assert tensors["two"].dtype is gguf_format.PLAIN.get(kind, torch.float32)
    assert torch.equal(tensors["two"].read().float(), expected)
    assert torch.equal(tensors["two"].read(slice(1, 4)).float(), expected[1:4])
    assert torch.equal(tensors["three"].read(slice(1, 3)).float(), expected.reshape(3, 2, 512)[1:3])
    assert torch.equal(tensors["one"].read().float(), expected[0])
    assert torch.equal(tensors["one"].read(slice(5, 50)).float(), expected[0, 5:50])


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
    with pytest.raises(BadCheckpoint, match=r"found m.gguf ends too early.*fetch the file again"):
        open_gguf(path)


HEADER = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04" + bytes(40), r"found a file that begins with b'PK.*m.gguf; expected GGUF"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(40), r"found GGUF version 1 in m.gguf; expected version 2 or 3"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(40), r"found GGUF version 50331648.*little-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), r"ends too early"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), r"ends too early"),
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


@pytest.mark.parametrize(("kind", "name"), [(7, "Q5_1"), (77, "type 77")])
def test_another_quantization_is_refused_by_name(tmp_path: Path, kind: int, name: str) -> None:
    info = b"t" + struct.pack("<IQIQ", 1, 32, kind, 0)
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + info + bytes(99))
    with pytest.raises(
        UnsupportedModel, match=rf"found 't' quantized as {name} in m.gguf; expected one of F32, .*Q6_K"
    ):
        open_gguf(tmp_path / "m.gguf")


def test_a_part_of_a_split_file_is_refused(tmp_path: Path) -> None:
    path = llama_file(tmp_path / "m.gguf", split__count=3)
    with pytest.raises(UnsupportedModel, match=r"found m.gguf, one of 3 parts of a split file"):
        open_gguf(path)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", "mamba", {}, {})
    with pytest.raises(UnsupportedModel, match=r"general.architecture='mamba' in m.gguf; expected one of llama, gpt2"):
        hugging_face_view(open_gguf(path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"expert_count": 8}, r"found llama.expert_count=8 in m.gguf; expected 0"),
        ({"rope.dimension_count": 4}, r"found llama.rope.dimension_count=4 in m.gguf; expected 8"),
        ({"logit_scale": 2.0}, r"found llama.logit_scale=2.0 in m.gguf; expected only metadata whose meaning"),
        ({"rope.scaling.type": "longrope"}, r"found llama.rope.scaling.type='longrope'.*expected none, linear or yarn"),
        ({"rope.scaling.attn_factor": 2.0}, r"found llama.rope.scaling.attn_factor=2.0"),
        ({"feed_forward_length": [48, 64]}, r"found llama.feed_forward_length=.48, 64.*one value for all layers"),
    ],
)
def test_metadata_that_changes_values_is_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        hugging_face_view(open_gguf(llama_file(tmp_path / "m.gguf", values)))


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


def test_rows_that_are_no_whole_heads_are_refused(tmp_path: Path) -> None:
    path = llama_file(tmp_path / "m.gguf", extra={"blk.0.attn_k.weight": np.zeros((12, 32), np.float32)})
    with pytest.raises(BadCheckpoint, match=r"k_proj.weight' with 12 rows for heads of 8 in m.gguf"):
        hugging_face_view(open_gguf(path))
