"""The GGUF format of llama.cpp: one file's metadata, and its tensors one at a time.

It does not know the other parts of a split file (gguf_split.py), how a block is dequantized (gguf_quants.py), nor any
architecture's names. The format: ggml, docs/gguf.md.
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
from cutaway.weights.files.gguf_quants import (
    MXFP4,
    PLAIN,
    Q8_0,
    block_size,
    dequantize,
    groups,
    readable_kinds,
    type_name,
)
from cutaway.weights.files.lazy import FileMapping, LazyTensor, read_at, stored_plainly, truncated
from cutaway.weights.files.recognize import refuse_disguised

SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"
}  # fmt: skip
STRING, ARRAY = 8, 9
AT_ONCE = 1 << 20  # elements dequantized at a time: a few MB, which is fast and bounds the memory


@dataclass(frozen=True)
class GGUF:
    """A file's metadata by key, arrays as lists, and its tensors by GGUF name, shapes in torch's order."""

    metadata: dict[str, Any]
    tensors: dict[str, LazyTensor]
    path: Path


def open_part(path: Path) -> GGUF:
    """Metadata and tensors of one file; of the tensors only names, shapes and offsets are read.

    Raises BadCheckpoint for a file that is no GGUF (version 2 or 3, little-endian), damaged or truncated,
    UnsupportedModel for an unknown quantization.
    """
    refuse_disguised(path, "a GGUF file", [b"GGUF"])
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
    tensors: dict[str, LazyTensor] = {}
    mapping = FileMapping(path)
    for name, dims, kind, offset in infos:
        if name in tensors:
            raise damaged(path, f"two tensors {name!r}")
        tensors[name] = _tensor(mapping, name, dims, kind, data_start + offset)
        end = data_start + offset + _stored_bytes(dims, kind)
        if end > size:
            raise truncated(path, f"{size} bytes", f"{end}, for {name!r} to be whole")
    return GGUF(metadata, tensors, path)


@dataclass(frozen=True)
class _Reader:
    """Reads little-endian values from a file, none larger than the file."""

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
        for _ in range(count):  # a vocabulary has 100,000: struct is five times as fast as numpy here
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
        """A tensor's shape in torch's order: ggml's has the fastest axis first."""
        count = self.number("<u4")
        if count > 4:
            raise damaged(self.path, f"a tensor with {count} axes")
        return tuple(self.number("<u8") for _ in range(count))[::-1]


def _preamble(read: _Reader) -> tuple[int, int]:
    """The numbers of tensors and of metadata values that follow."""
    magic = read.bytes(4)
    if magic != b"GGUF":
        found = f"a file that begins with {magic!r}, {read.path.name}"
        raise BadCheckpoint(found, "a file that begins with GGUF", "name a .gguf file, or fetch it again")
    version = read.number("<u4")
    if version not in (2, 3):
        found, expected = f"GGUF version {version} in {read.path.name}", "version 2 or 3"
        if version % (1 << 16) == 0:  # 2 or 3 in big-endian bytes
            found, expected = f"a GGUF file for big-endian machines, {read.path.name}", "a little-endian one"
        raise BadCheckpoint(found, expected, "choose another file of this model, or convert it anew with llama.cpp")
    return read.number("<u8"), read.number("<u8")


def _tensor(file: FileMapping, name: str, shape: tuple[int, ...], kind: int, offset: int) -> LazyTensor:
    if kind in PLAIN:
        return stored_plainly(name, shape, PLAIN[kind], file, offset)
    path = file.path
    block = block_size(kind)
    if block is None:
        found = f"{name!r} quantized as {type_name(kind)} in {path.name}"
        expected = f"one of {', '.join(readable_kinds())}"
        raise UnsupportedModel(found, expected, "choose a file in one of these quantizations")
    if not shape or shape[-1] % block[0]:
        raise damaged(path, f"{name!r} of shape {list(shape)} in blocks of {block[0]}")
    lines_per_row = prod(shape[1:-1])

    def fetch(start: int, stop: int) -> Tensor:
        if len(shape) == 1:  # a row is one element, less than a block: read all
            return _dequantized(path, offset, kind, 1, shape[0])[0, start:stop].clone()
        line_bytes = _stored_bytes(shape[-1:], kind)
        lines = (stop - start) * lines_per_row
        return _dequantized(path, offset + start * lines_per_row * line_bytes, kind, lines, shape[-1])

    def as_stored(start: int, stop: int) -> tuple[Tensor, Tensor]:
        line_bytes = _stored_bytes(shape[-1:], kind)
        raw = read_at(path, offset + start * line_bytes, (stop - start) * line_bytes)
        return groups(raw.view(stop - start, -1), kind)

    def apart(index: int) -> LazyTensor:
        return _tensor(file, name, shape[1:], kind, offset + index * _stored_bytes(shape[1:], kind))

    return LazyTensor(name, shape, torch.float32, fetch,
                      groups=as_stored if kind in (Q8_0, MXFP4) and len(shape) == 2 else None,
                      apart=apart if len(shape) > 2 else None)  # fmt: skip


def _dequantized(path: Path, offset: int, kind: int, lines: int, width: int) -> Tensor:
    """`lines` lines of blocks from byte `offset` on as float32 [lines, width], some lines at a time."""
    line_bytes = _stored_bytes((width,), kind)
    out = torch.empty(lines, width, dtype=torch.float32, device="cpu")
    count = max(1, AT_ONCE // width)
    for start in range(0, lines, count):
        part = out[start : start + count]
        dequantize(read_at(path, offset + start * line_bytes, len(part) * line_bytes), kind, part.view(-1))
    return out


def _stored_bytes(shape: tuple[int, ...], kind: int) -> int:
    elements, nbytes = block_size(kind) or (1, 0)
    return prod(shape) // elements * nbytes


def damaged(path: Path, what: str) -> BadCheckpoint:
    return BadCheckpoint(f"{what} in {path.name}", "a sound GGUF file", "fetch the file again")
