"""Every quantization that the gguf package can read: values against the package, logits against dequantized weights."""

import struct
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter

import cutaway
from cutaway.ground.errors import UnsupportedModel
from cutaway.weights.files import gguf_format, gguf_quants
from cutaway.weights.files.gguf import open_gguf
from tests.tiny import build, llama
from tests.weights.gguf_files import LLAMA, LLAMA_NAMES, add_values, finished

Array = np.ndarray[Any, Any]
FLOATS = ["F32", "F16", "BF16", "F64"]
BLOCKS = [
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS",
    "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "IQ1_M", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4",
]  # fmt: skip
UNREADABLE = ["Q8_1", "Q8_K", "Q1_0"]  # the package knows their sizes and cannot dequantize them


@cache
def pool(name: str) -> Array:
    """Up to 64 blocks of random bytes [n, bytes] whose values are finite and of a size that a network can take."""
    elements, nbytes = gguf.GGML_QUANT_SIZES[Kind[name]]
    raw = np.random.default_rng(0).integers(0, 256, (3000, nbytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        largest = np.abs(gguf.quants.dequantize(raw, Kind[name]).reshape(-1, elements)).max(axis=1)
    good = raw[(largest > 0.01) & (largest < 2.0)][:64]  # infinity and NaN are neither
    assert len(good) >= 8, "too few sound blocks among random bytes"
    return good


def stored(name: str, rows: int, width: int, seed: int = 0) -> Array:
    """A matrix as the file holds it: rows of blocks, or of plain floats."""
    rng = np.random.default_rng(seed)
    if name in FLOATS:
        values = torch.from_numpy(rng.standard_normal((rows, width)) * 0.3)
        dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}[name]
        return values.to(dtype).view(torch.uint8).numpy()
    elements, _ = gguf.GGML_QUANT_SIZES[Kind[name]]
    choice = rng.integers(0, len(pool(name)), (rows, width // elements))
    return pool(name)[choice].reshape(rows, -1)


def values_of(name: str, raw: Array) -> torch.Tensor:
    """What the package makes of it."""
    return torch.from_numpy(np.ascontiguousarray(gguf.quants.dequantize(raw, Kind[name]))).float()


def test_these_are_all_kinds_of_the_package() -> None:
    integers = ["I8", "I16", "I32", "I64"]
    assert {kind.name for kind in Kind} == {*FLOATS, *BLOCKS, *integers, *UNREADABLE}
    assert set(gguf_quants.readable_kinds()) == {*FLOATS, *BLOCKS, *integers}
    for kind in Kind:
        if kind.name not in UNREADABLE:
            assert gguf_quants.block_size(kind) == gguf.GGML_QUANT_SIZES[kind], kind.name


@pytest.mark.parametrize("at_once", [1 << 20, 512])
@pytest.mark.parametrize("name", ["F32", "F16", "BF16", *BLOCKS])
def test_every_quantization_is_read_as_the_package_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at_once: int
) -> None:
    monkeypatch.setattr(gguf_format, "AT_ONCE", at_once)
    kind, raw = Kind[name], stored(name, 6, 512)
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("two", raw, raw_dtype=kind)
    writer.add_tensor("three", raw.reshape(3, 2, -1), raw_dtype=kind)
    writer.add_tensor("one", raw[0], raw_dtype=kind)
    finished(writer)
    expected = values_of(name, raw)
    tensors = open_gguf(tmp_path / "m.gguf").tensors
    assert {n: t.shape for n, t in tensors.items()} == {"two": (6, 512), "three": (3, 2, 512), "one": (512,)}
    assert tensors["two"].dtype is gguf_quants.PLAIN.get(kind, torch.float32)
    assert torch.equal(tensors["two"].read().float(), expected)
    assert torch.equal(tensors["two"].read(slice(1, 4)).float(), expected[1:4])
    assert torch.equal(tensors["three"].read(slice(1, 3)).float(), expected.reshape(3, 2, 512)[1:3])
    assert torch.equal(tensors["one"].read().float(), expected[0])
    assert torch.equal(tensors["one"].read(slice(5, 50)).float(), expected[0, 5:50])


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_the_common_kinds_are_the_package_s_bit_for_bit_whatever_the_bytes(name: str) -> None:
    kind = Kind[name]
    assert int(kind) in gguf_quants.COMMON
    raw = np.random.default_rng(1).integers(0, 256, (70_000, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
    raw[:, :4] = np.arange(70_000, dtype=np.uint16)[:, None].view(np.uint8)[:, [0, 1, 1, 0]]  # every scale there is
    out = torch.empty(70_000 * 32)
    gguf_quants.dequantize(torch.from_numpy(raw).view(-1), kind, out)
    with np.errstate(all="ignore"):
        expected = torch.from_numpy(gguf.quants.dequantize(raw, kind)).reshape(-1)
    same = (out.view(torch.int32) == expected.view(torch.int32)) | (out.isnan() & expected.isnan())
    assert bool(same.all())


def test_whole_numbers_are_read_as_they_stand(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    for dtype in (np.int8, np.int16, np.int32, np.int64, np.float64):
        writer.add_tensor(np.dtype(dtype).name, np.array([[1, -2], [3, 100]], dtype))
    finished(writer)
    for name, tensor in open_gguf(tmp_path / "m.gguf").tensors.items():
        assert torch.equal(tensor.read(), torch.tensor([[1, -2], [3, 100]], dtype=getattr(torch, name)))


HIDDEN = 256  # a block of the K kinds is 256 elements
SHAPES = {
    "model.embed_tokens.weight": (64, HIDDEN), "lm_head.weight": (64, HIDDEN),
    "self_attn.q_proj.weight": (HIDDEN, HIDDEN), "self_attn.k_proj.weight": (128, HIDDEN),
    "self_attn.v_proj.weight": (128, HIDDEN), "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
    "mlp.gate_proj.weight": (HIDDEN, HIDDEN), "mlp.up_proj.weight": (HIDDEN, HIDDEN),
    "mlp.down_proj.weight": (HIDDEN, HIDDEN),
}  # fmt: skip
SIZES = {"vocab_size": 64, "hidden_size": HIDDEN, "intermediate_size": HIDDEN, "num_hidden_layers": 1}


def same_model_twice(folder: Path, name: str) -> tuple[Path, Path]:
    """A GGUF whose matrices are of this kind, and a folder of what the package makes of them."""
    sizes = {"block_count": 1, "embedding_length": HIDDEN, "feed_forward_length": HIDDEN, "rope.dimension_count": 64}
    writer = GGUFWriter(folder / "m.gguf", "llama")
    add_values(writer, {f"llama.{key}": value for key, value in (LLAMA | sizes).items()})
    state: dict[str, torch.Tensor] = {}
    for theirs, ours in LLAMA_NAMES.items():
        theirs, ours = theirs.replace("{i}", "0"), ours.replace("{i}", "0")
        shape = SHAPES.get(ours.removeprefix("model.layers.0."))
        if shape is not None:
            raw = stored(name, *shape, seed=len(state))
            writer.add_tensor(theirs, raw, raw_dtype=Kind[name])
            state[ours] = in_order(ours, values_of(name, raw)) if name != "F64" else in_order(
                ours, torch.from_numpy(raw).view(torch.float64).float())  # fmt: skip
        elif ours.endswith("norm.weight"):
            writer.add_tensor(theirs, np.ones(HIDDEN, np.float32))
            state[ours] = torch.ones(HIDDEN)
    finished(writer)
    model = build(llama(**SIZES, num_key_value_heads=2, rms_norm_eps=1e-5))
    model.load_state_dict(state)
    model.save_pretrained(folder / "folder")
    return folder / "m.gguf", folder / "folder"


def in_order(name: str, rows: torch.Tensor) -> torch.Tensor:
    """Rows of q and k as Hugging Face has them: pairs that llama.cpp interleaves are half a head apart."""
    if ".q_proj." not in name and ".k_proj." not in name:
        return rows
    return rows.view(-1, 32, 2, rows.shape[-1]).transpose(1, 2).reshape(rows.shape)


@pytest.mark.parametrize("name", [*FLOATS, *BLOCKS])
def test_f8_a_model_in_every_quantization_has_the_logits_of_its_dequantized_weights(tmp_path: Path, name: str) -> None:
    file, folder = same_model_twice(tmp_path, name)
    ids = torch.tensor([[3, 7, 9, 60, 1]])
    ours, theirs = cutaway.load(file, quantize=None).logits(ids), cutaway.load(folder, quantize=None).logits(ids)
    assert bool(theirs.isfinite().all()) and float(theirs.std()) > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [*UNREADABLE, "type 77"])
def test_a_quantization_that_nothing_can_read_is_refused_by_name(tmp_path: Path, name: str) -> None:
    number = 77 if name == "type 77" else int(Kind[name])
    info = b"t" + struct.pack("<IQIQ", 1, 256, number, 0)
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + info + bytes(999))
    message = rf"found 't' quantized as {name} in m.gguf; expected one of F32, .*Q4_0, .*IQ4_XS.*NVFP4"
    with pytest.raises(UnsupportedModel, match=message):
        open_gguf(tmp_path / "m.gguf")
