"""Weights that another tool stored as codes with scales, read as float32: bitsandbytes' 8 and 4 bits, fp8, MXFP4.

Only weights: what such a tool does to activations is not done here. A checkpoint of another format is left as it is,
and refused by packed.py. It does not know which tensors a model needs.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cutaway.ground.errors import BadCheckpoint
from cutaway.weights.files import mxfp4
from cutaway.weights.files.lazy import LazyTensor, Note

Tensors = dict[str, LazyTensor]
Rows = Callable[[slice], Tensor]
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
STATE = ".quant_state.bitsandbytes__"  # of a matrix in 4 bits: its shape and block size, as JSON
MXFP4 = "MXFP4"
PARTS_4 = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")


def dequantized(tensors: Mapping[str, LazyTensor], quantization: object, note: Note) -> Tensors:
    """The tensors, with each matrix that is one of these forms as float32 and without its parts.

    quantization: config.json's `quantization_config`. note(line): what was read so. Raises BadCheckpoint where parts
    do not fit together.
    """
    config: Mapping[str, Any] = quantization if isinstance(quantization, Mapping) else {}
    found, counts = dict(tensors), dict[str, int]()
    for name in tensors:
        layer, _, leaf = name.rpartition(".")
        kind, used = "", None
        if leaf == "SCB":
            kind, used = "bitsandbytes' 8 bits", _rowwise(found, layer, leaf, 127.0)
        elif STATE in name:
            kind, used = "bitsandbytes' 4 bits", _four_bits(found, name)
        elif leaf in ("weight_scale", "weight_scale_inv"):
            kind, used = "8 bits with scales", _scaled(found, layer, leaf, config)
        elif leaf.endswith("_blocks"):
            kind, used = MXFP4, _stack_of_4_bits(found, name.removesuffix("_blocks"))
        if used:
            counts[kind] = counts.get(kind, 0) + (tensors[name].n_rows if kind == MXFP4 else 1)
            for part in used:
                found.pop(part, None)
    for kind, count in counts.items():
        exact = ", which mode int8 holds exactly wherever float16 holds a scale" * (kind == MXFP4)
        note(f"{count} matrices are stored in {kind} and read as the float32 that these stand for{exact}")
    return found


def _rowwise(found: Tensors, layer: str, leaf: str, divisor: float) -> list[str] | None:
    """W = codes · SCB / 127 (bitsandbytes: int8_vectorwise_dequant)."""
    codes, scale = found.get(f"{layer}.weight"), found[f"{layer}.{leaf}"]
    layout = found.get(f"{layer}.weight_format")
    if codes is None or codes.dtype != torch.int8 or (layout is not None and int(layout.read())):
        return None
    _require(codes, scale, (codes.shape[0],))
    _put(found, codes, codes.shape, lambda rows: codes.read(rows).float() * (scale.read(rows) / divisor)[:, None])
    return [f"{layer}.{leaf}", f"{layer}.weight_format"]


def _scaled(found: Tensors, layer: str, leaf: str, config: Mapping[str, Any]) -> list[str] | None:
    """W = codes · scale: one of the matrix, of each row, or of each block (DeepSeek's fp8, compressed-tensors)."""
    codes, scale = found.get(f"{layer}.weight"), found[f"{layer}.{leaf}"]
    zero = found.get(f"{layer}.weight_zero_point")
    if codes is None or codes.dtype not in (*FP8, torch.int8) or zero is not None or len(codes.shape) != 2:
        return None
    n, k = codes.shape
    block = config.get("weight_block_size")
    if isinstance(block, list) and len(block) == 2 and len(scale.shape) == 2:
        height, width = block
        _require(codes, scale, (-(-n // height), -(-k // width)))

        def scales(rows: slice) -> Tensor:
            of_rows = scale.read().float()[torch.arange(rows.start, rows.stop, device="cpu") // height]
            return of_rows.repeat_interleave(width, 1)[:, :k]
    elif scale.shape in ((), (1,), (n,), (n, 1)):

        def scales(rows: slice) -> Tensor:
            every = scale.read().float().reshape(-1, 1)
            return every if len(every) == 1 else every[rows]
    else:
        return None
    _put(found, codes, codes.shape, lambda rows: codes.read(rows).float() * scales(rows))
    return [f"{layer}.{part}" for part in (leaf, "input_scale")]


def _four_bits(found: Tensors, state: str) -> list[str] | None:
    """W = table[code] · absmax of its block; absmax may be in 8 bits itself (bitsandbytes: QuantState.from_dict)."""
    name = state.partition(STATE)[0]
    codes, parts = found.get(name), {part: found.get(f"{name}.{part}") for part in PARTS_4}
    absmax, table, nested = parts["absmax"], parts["quant_map"], parts["nested_absmax"]
    said = json.loads(bytes(found[state].read().tolist()))
    if codes is None or absmax is None or table is None or codes.dtype != torch.uint8:
        return None
    (n, k), size = said["shape"], said["blocksize"]
    if len(table.shape) != 1 or codes.nbytes * 2 != n * k or absmax.shape != (-(-n * k // size),) or k % 2:
        raise _misfit(codes, f"{n} × {k} in blocks of {size}, as {state} says")
    scale = absmax.read()
    if nested is not None:
        inner = parts["nested_quant_map"]
        assert inner is not None, "the two come together"
        blocks = torch.arange(len(scale), device="cpu") // said["nested_blocksize"]
        scale = inner.read()[scale.long()] * nested.read()[blocks] + said["nested_offset"]

    def read(rows: slice) -> Tensor:
        packed = codes.read(slice(rows.start * k // 2, rows.stop * k // 2)).reshape(-1)
        index = torch.stack((packed >> 4, packed & 15), -1).reshape(-1)
        at = torch.arange(rows.start * k, rows.stop * k, device="cpu") // size
        return (table.read()[index.long()] * scale[at]).float().view(-1, k)

    _put(found, codes, (n, k), read)
    return [state, *(f"{name}.{part}" for part in PARTS_4)]


def _stack_of_4_bits(found: Tensors, stem: str) -> list[str] | None:
    """All experts' matrices [X, N, K] of codes [X, N, K / 32, 16], of two neighbours the first in the low half of a
    byte, and exponents [X, N, K / 32] (transformers: convert_moe_packed_tensors, which also transposes)."""
    codes, exponents = found[f"{stem}_blocks"], found.get(f"{stem}_scales")
    if exponents is None or {codes.dtype, exponents.dtype} != {torch.uint8} or len(codes.shape) != 4:
        return None
    _require(codes, exponents, codes.shape[:-1])
    if codes.shape[-1] != 16:
        raise _misfit(codes, "blocks of 16 bytes")

    def matrix(codes: LazyTensor, exponents: LazyTensor) -> LazyTensor:
        def unpacked(start: int, stop: int) -> tuple[Tensor, Tensor]:
            rows = slice(start, stop)
            return mxfp4.doubled(codes.read(rows)).flatten(-2), exponents.read(rows)

        shape = (*exponents.shape[:-1], exponents.shape[-1] * 32)
        return LazyTensor(f"{stem}.weight", shape, torch.float32, lambda a, b: mxfp4.values(*unpacked(a, b)),
                          groups=(lambda a, b: mxfp4.groups(*unpacked(a, b))) if len(shape) == 2 else None)  # fmt: skip

    stack = matrix(codes, exponents)
    found[stack.name] = replace(stack, apart=lambda expert: matrix(codes.part(expert), exponents.part(expert)))
    return [f"{stem}_blocks", f"{stem}_scales"]


def _put(found: Tensors, codes: LazyTensor, shape: tuple[int, ...], read: Rows) -> None:
    """The matrix under the name of its codes."""
    found[codes.name] = replace(codes, shape=shape, dtype=torch.float32, location=None, groups=None, apart=None,
                                fetch=lambda start, stop: read(slice(start, stop)))  # fmt: skip


def _require(codes: LazyTensor, scale: LazyTensor, shape: tuple[int, ...]) -> None:
    if scale.shape != shape:
        raise _misfit(codes, f"{list(shape)} of {scale.name}, not {list(scale.shape)}")


def _misfit(codes: LazyTensor, expected: str) -> BadCheckpoint:
    return BadCheckpoint(f"{codes.name!r} of shape {list(codes.shape)}", expected, "fetch the checkpoint again")
