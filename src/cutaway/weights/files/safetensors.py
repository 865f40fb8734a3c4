"""The safetensors format: read tensors out of a file one at a time, and write a file tensor by tensor.

It does not know which tensors a model needs, nor how many files they are spread over.
"""

import json
import os
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway.ground.errors import BadArgument, BadCheckpoint, UnsupportedModel
from cutaway.weights.files.lazy import FileMapping, LazyTensor, stored_plainly, truncated
from cutaway.weights.files.packed import refuse_dtype, refuse_packed_names
from cutaway.weights.files.recognize import SAFETENSORS, refuse_disguised

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
LARGEST_HEADER = 100_000_000  # the format's own limit, in bytes
ALIGNMENT = 64  # bytes; every tensor of a written file starts at a multiple
PADDING = "cutaway.padding."  # names of the zeros between them

Specs = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


def open_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one file, by name, in the order of their bytes; only the header is read.

    Format: github.com/huggingface/safetensors, "Format". Raises BadCheckpoint for a file that is damaged or
    truncated, UnsupportedModel for a dtype that is not in DTYPES.
    """
    refuse_disguised(path, "the safetensors format", [SAFETENSORS])
    header, data_start = _header(path)
    if any(_code(entry) not in DTYPES for entry in header.values()):  # the names may identify the tool
        refuse_packed_names(header, path.name)
    spans: list[tuple[int, int, LazyTensor]] = []
    file = FileMapping(path)
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, begin, end = _entry(path, name, entry)
        tensor = stored_plainly(name, shape, dtype, file, data_start + begin)
        if end - begin != tensor.nbytes:
            found = f"{end - begin} bytes for {name!r} in {path.name}"
            expected = f"{tensor.nbytes} for {entry['dtype']} of shape {list(shape)}"
            raise BadCheckpoint(found, expected, "fetch the file again")
        spans.append((begin, end, tensor))
    spans.sort(key=lambda span: span[:2])
    _refuse_gaps(path, spans, path.stat().st_size - data_start)
    return {tensor.name: tensor for _, _, tensor in spans if not tensor.name.startswith(PADDING)}


def write_safetensors(
    path: Path, specs: Specs, producer: Callable[[str], Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file with one tensor in memory at a time: `producer(name)` is called for each, in the file's order.

    The file appears under its name only when it is complete; an interruption leaves no file behind.
    Raises BadArgument where a tensor does not match `specs`, OSError from the disk.
    """
    specs = _aligned(specs)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(_written_header(specs, metadata or {}))
            for name, (dtype, shape) in specs.items():
                padding = name.startswith(PADDING)
                tensor = torch.zeros(shape, dtype=dtype, device="cpu") if padding else producer(name)
                file.write(_bytes_of(name, tensor, dtype, shape))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise truncated(path, f"{size} bytes", f"a header of {length} bytes after the first 8, as they announce")
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        found = f"a header that is no JSON object in {path.name}"
        raise BadCheckpoint(found, "the safetensors format", "fetch the file again, or convert it anew")
    return header, 8 + length


def _code(entry: Any) -> str:
    """A header entry's dtype; a readable one for __metadata__ and malformed entries."""
    code = entry.get("dtype", "F32") if isinstance(entry, dict) else "F32"
    return code if isinstance(code, str) else "F32"


def _entry(path: Path, name: str, entry: Any) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    """dtype, shape, begin and end of one tensor from its header entry, each of the right type."""
    try:
        code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        sound = isinstance(code, str) and all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (KeyError, TypeError, ValueError):
        code, shape, begin, end, sound = "", (), 0, 0, False
    if not sound:
        found = f"the header entry {json.dumps(entry)[:80]} for {name!r} in {path.name}"
        raise BadCheckpoint(found, "dtype, shape and data_offsets", "fetch the file again, or convert it anew")
    if code not in DTYPES:
        refuse_dtype(code, name, path.name)
        found = f"the dtype {code} of {name!r} in {path.name}"
        raise UnsupportedModel(found, f"one of {', '.join(DTYPES)}", "use a checkpoint in one of these")
    return DTYPES[code], shape, begin, end


def _refuse_gaps(path: Path, spans: list[tuple[int, int, LazyTensor]], data_bytes: int) -> None:
    """The tensors must be contiguous and fill the file."""
    offset = 0
    for begin, end, tensor in spans:
        if begin != offset:
            found = f"{tensor.name!r} at byte {begin} of the data in {path.name}"
            raise BadCheckpoint(found, f"byte {offset}, where the tensor before it ends", "fetch the file again")
        offset = end
    if offset > data_bytes:
        raise truncated(path, f"{data_bytes} bytes of data", f"{offset}, as its header announces")
    if offset < data_bytes:
        found = f"{data_bytes} bytes of data in {path.name}"
        raise BadCheckpoint(found, f"{offset}, as its header announces", "fetch the file again")


def _aligned(specs: Specs) -> Specs:
    """The specs with a tensor of zeros after each that does not end at a multiple of 64 bytes: the format allows no
    gap between tensors, and mapped tensors should be aligned to cache lines."""
    padded: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    names = sorted(specs, key=lambda name: (-specs[name][0].itemsize, name))
    for number, name in enumerate(names):
        dtype, shape = padded[name] = specs[name]
        rest = -(prod(shape) * dtype.itemsize) % ALIGNMENT
        if rest and number + 1 < len(names):
            padded[f"{PADDING}{number}"] = (torch.uint8, (rest,))
    return padded


def _written_header(specs: Specs, metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (dtype, shape) in specs.items():
        end = offset + prod(shape) * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)  # the format allows spaces there
    return len(text).to_bytes(8, "little") + text


def _bytes_of(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> memoryview:
    if tensor.dtype != dtype or tensor.shape != shape:
        found = f"{name!r} as {tensor.dtype} of shape {list(tensor.shape)}"
        raise BadArgument(found, f"{dtype} of shape {list(shape)}", "announce each tensor as it is produced")
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
