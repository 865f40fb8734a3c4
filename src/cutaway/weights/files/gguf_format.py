"""The GGUF format of llama.cpp: a file's metadata, and its tensors one at a time.

It does not know what a tensor is for, nor any architecture's names. The format: ggml, docs/gguf.md.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from cutaway.ground.errors import BadCheckpoint, UnsupportedModel
from cutaway.weights.files.lazy import LazyTensor, read_at, stored_plainly, truncated

SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"
}  # fmt: skip
STRING, ARRAY = 8, 9
PLAIN = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
# type → name, elements of a block, bytes of a block; blocks run along the last axis
BLOCKS = {
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
}
AT_ONCE = 1 << 22  # elements dequantized at a time: the gguf package needs several times their size meanwhile


@dataclass(frozen=True)
class GGUF:
    """A file's metadata by key, arrays as lists, and its tensors by GGUF name, shapes in torch's order."""

    metadata: dict[str, Any]
    tensors: dict[str, LazyTensor]
    path: Path


def open_gguf(path: Path) -> GGUF:
    """Metadata and tensors of one file; of the tensors nothing is read but names and places.

    Raises BadCheckpoint for a file that is no GGUF (version 2 or 3), damaged or truncated, UnsupportedModel for
    a quantization that is not in BLOCKS and for one part of a split file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        read = _Reader(path, file, size)
        n_tensors, n_values = _preamble(read)
        metadata = {read.string(): read.value(read.number("<u4")) for _ in range(n_values)}
        infos = [(read.string(), read.dims(), read.number("<u4"), read.number("<u8")) for _ in range(n_tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise damaged(path, f"general.alignment={alignment!r}")
        data_start = -(-file.tell() // alignment) * alignment
    if metadata.get("split.count", 1) != 1:
        found = f"{path.name}, one of {metadata['split.count']} parts of a split file"
        raise UnsupportedModel(found, "a whole model in one .gguf file", "join the parts with llama-gguf-split --merge")
    tensors = {name: _tensor(path, name, dims, kind, data_start + at) for name, dims, kind, at in infos}
    for name, dims, kind, at in infos:
        end = data_start + at + _stored_bytes(dims, kind)
        if end > size:
            raise truncated(path, f"{size} bytes", f"{end}, for {name!r} to be whole")
    return GGUF(metadata, tensors, path)


@dataclass(frozen=True)
class _Reader:
    """Little-endian values from the start of a file on, none larger than the file."""

    path: Path
    file: BinaryIO
    size: int

    def bytes(self, count: int) -> bytes:
        data = self.file.read(count) if count <= self.size else b""
        if len(data) < count:
            raise truncated(self.path, f"{self.size} bytes", f"{count} more bytes of its header")
        return data

    def number(self, code: str) -> Any:
        dtype = np.dtype(code)
        return np.frombuffer(self.bytes(dtype.itemsize), dtype)[0].item()

    def string(self) -> str:
        return next(self.strings(1))

    def strings(self, count: int) -> Iterator[str]:
        for _ in range(count):  # 100,000 of them in a vocabulary: struct is five times as fast as numpy here
            (length,) = struct.unpack("<Q", self.bytes(8))
            try:
                yield self.bytes(length).decode()
            except UnicodeDecodeError as error:
                raise damaged(self.path, "a string that is not UTF-8") from error

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array(self.number("<u4"), self.number("<u8"))
        if kind not in SCALARS:
            raise damaged(self.path, f"a value of unknown type {kind}")
        return self.number(SCALARS[kind])

    def array(self, kind: int, count: int) -> list[Any]:
        if kind == STRING:
            return list(self.strings(count))
        if kind not in SCALARS:
            raise damaged(self.path, f"an array of unknown type {kind}")
        dtype = np.dtype(SCALARS[kind])
        return np.frombuffer(self.bytes(count * dtype.itemsize), dtype).tolist()

    def dims(self) -> tuple[int, ...]:
        """A tensor's shape in torch's order: ggml counts the fastest axis first."""
        count = self.number("<u4")
        if count > 4:
            raise damaged(self.path, f"a tensor with {count} axes")
        return tuple(self.number("<u8") for _ in range(count))[::-1]


def _preamble(read: _Reader) -> tuple[int, int]:
    """How many tensors and how many metadata values follow."""
    magic, version = read.bytes(4), read.number("<u4")
    if magic != b"GGUF":
        found = f"a file that begins with {magic!r}, {read.path.name}"
        raise BadCheckpoint(found, "GGUF, as every GGUF file begins", "name a .gguf file, or fetch it again")
    if version not in (2, 3):
        found = f"GGUF version {version} in {read.path.name}"
        raise BadCheckpoint(found, "version 2 or 3, little-endian", "convert the model anew with llama.cpp")
    return read.number("<u8"), read.number("<u8")


def _tensor(path: Path, name: str, shape: tuple[int, ...], kind: int, offset: int) -> LazyTensor:
    if kind in PLAIN:
        return stored_plainly(name, shape, PLAIN[kind], path, offset)
    if kind not in BLOCKS:
        supported = ", ".join(["F32", "F16", "BF16", *(name for name, _, _ in BLOCKS.values())])
        found = f"{name!r} quantized as {_type_name(kind)} in {path.name}"
        raise UnsupportedModel(found, f"one of {supported}", "choose a file in one of these quantizations")
    if not shape or shape[-1] % BLOCKS[kind][1]:
        raise damaged(path, f"{name!r} of shape {list(shape)} in blocks of {BLOCKS[kind][1]}")
    lines_a_row = prod(shape[1:-1])

    def fetch(start: int, stop: int) -> Tensor:
        if len(shape) == 1:  # a row is one element, and a block holds many: read all
            return _dequantized(path, offset, kind, 1, shape[0])[0, start:stop].clone()
        line_bytes = _stored_bytes(shape[-1:], kind)
        lines = (stop - start) * lines_a_row
        return _dequantized(path, offset + start * lines_a_row * line_bytes, kind, lines, shape[-1])

    return LazyTensor(name, shape, torch.float32, fetch)


def _dequantized(path: Path, offset: int, kind: int, lines: int, width: int) -> Tensor:
    """`lines` lines of blocks from a byte on as float32 [lines, width], a few at a time."""
    import gguf  # here, because it takes 0.1 s to import and only quantized files need it

    line_bytes = _stored_bytes((width,), kind)
    out = torch.empty(lines, width, dtype=torch.float32, device="cpu")
    step = max(1, AT_ONCE // width)
    for at in range(0, lines, step):
        count = min(step, lines - at)
        raw = read_at(path, offset + at * line_bytes, count * line_bytes).numpy().reshape(count, line_bytes)
        values = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(kind))
        out[at : at + count] = torch.from_numpy(values)
    return out


def _stored_bytes(shape: tuple[int, ...], kind: int) -> int:
    if kind in PLAIN:
        return prod(shape) * PLAIN[kind].itemsize
    _, elements, nbytes = BLOCKS[kind]
    return prod(shape) // elements * nbytes


def _type_name(kind: int) -> str:
    import gguf

    return gguf.GGMLQuantizationType(kind).name if kind in set(gguf.GGMLQuantizationType) else f"type {kind}"


def damaged(path: Path, what: str) -> BadCheckpoint:
    return BadCheckpoint(f"{what} in {path.name}", "a sound GGUF file", "fetch the file again")
