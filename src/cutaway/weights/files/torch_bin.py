"""PyTorch's own format (pytorch_model.bin): tensors read one at a time; pickled code never runs.

It does not know which tensors a model needs, nor how many files they are spread over.
"""

import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from cutaway.ground.errors import BadCheckpoint, UnsupportedModel
from cutaway.weights.files.lazy import FileMapping, LazyTensor, read_at, stored_plainly
from cutaway.weights.files.recognize import ZIP, refuse_disguised


def open_torch_bin(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one file, by name. Tensors that share memory in the file (tied ones) are each read as a copy.

    A zip file (torch 1.6 and later) is read tensor by tensor; an older or a compressed one is loaded into memory.
    Raises BadCheckpoint for a file that is damaged, holds more than tensors, or asks to run code.
    """
    refuse_disguised(path, "a whole PyTorch checkpoint", [ZIP])
    entries = _stored_entries(path)
    # On the "meta" device torch builds tensors without data, whose storages know their offset in the file
    # (torch docs, notes/serialization). Pages of a mapped file would count as this process's memory.
    state = _load(path, "cpu" if entries is None else "meta")
    if not isinstance(state, dict):
        found = f"a {type(state).__name__} in {path.name}"
        raise BadCheckpoint(found, "a dict of tensors by name (a state dict)", "save model.state_dict() instead")
    checked = {name: _checked(path, name, value) for name, value in state.items()}
    if entries is None:
        return {name: _in_memory(path, name, tensor) for name, tensor in checked.items()}
    file = FileMapping(path)
    return {name: _in_file(file, name, tensor, entries) for name, tensor in checked.items()}


def _stored_entries(path: Path) -> dict[int, int] | None:
    """Byte offset → size of each entry of a zip file; None for another or a compressed file."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                return None
            return {_data_start(file, entry.header_offset): entry.file_size for entry in entries}
    except zipfile.BadZipFile as error:
        with path.open("rb") as file:
            if file.read(len(ZIP)) == ZIP:  # truncated: a zip file's table is at its end
                raise _unreadable(path) from error
        return None  # of a torch older than 1.6


def _data_start(file: BinaryIO, header: int) -> int:
    """The offset after an entry's header, whose last two numbers are the lengths of its name and of its padding."""
    file.seek(header + 26)
    return header + 30 + sum(struct.unpack("<HH", file.read(4).ljust(4, b"\0")))


def _load(path: Path, device: str) -> Any:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        # what the loader raises for bytes that are no checkpoint
        raise _unreadable(path) from error


def _unreadable(path: Path) -> BadCheckpoint:
    found = f"a file that torch cannot read, {path.name} ({path.stat().st_size} bytes)"
    return BadCheckpoint(found, "a whole PyTorch checkpoint", "fetch the file again")


def _refused(path: Path, message: str) -> BadCheckpoint:
    """The error for a pickle that weights_only refuses, with the name of the refused object where there is one."""
    # torch says "Unsupported global: GLOBAL os.system was not …" or "… GLOBAL os.system whose module …"
    refused = re.search(r"GLOBAL (\S+)", message) or re.search(r"Unsupported class (\S+)", message)
    if refused is None:
        found = f"a pickle that torch cannot read in {path.name}"
        return BadCheckpoint(found, "a whole PyTorch checkpoint", "fetch the file again")
    found = f"{path.name}, which asks to run code: {refused[1]}"
    return BadCheckpoint(found, "tensors only", "do not open it with any other tool unless you trust who made it")


def _checked(path: Path, name: Any, value: Any) -> Tensor:
    if not isinstance(name, str) or not isinstance(value, Tensor):
        found = f"{type(value).__name__} under {name!r} in {path.name}"
        raise BadCheckpoint(found, "tensors by name only", "save model.state_dict() instead")
    if value.is_sparse or value.is_quantized or value.layout is not torch.strided:
        found = f"a sparse or quantized tensor under {name!r} in {path.name}"
        raise UnsupportedModel(found, "plain tensors", "save them with to_dense() or dequantize()")
    return value.detach()


def _in_file(file: FileMapping, name: str, meta: Tensor, entries: dict[int, int]) -> LazyTensor:
    start_byte: int = getattr(meta.untyped_storage(), "_checkpoint_offset")  # noqa: B009 (unknown to its stub)
    if entries.get(start_byte) != meta.untyped_storage().nbytes():
        raise _unreadable(file.path)  # it would be read from another entry's bytes
    shape, dtype = tuple(meta.shape), meta.dtype
    if meta.is_contiguous():
        offset = start_byte + int(meta.storage_offset()) * dtype.itemsize
        return stored_plainly(name, shape, dtype, file, offset)

    def fetch(start: int, stop: int) -> Tensor:  # a transposed or strided view: read all of its storage, then view it
        flat = read_at(file.path, start_byte, meta.untyped_storage().nbytes()).view(dtype)
        view = flat.as_strided(shape, meta.stride(), meta.storage_offset())
        return view[start:stop].clone(memory_format=torch.contiguous_format)

    return LazyTensor(name, shape, dtype, fetch)


def _in_memory(path: Path, name: str, tensor: Tensor) -> LazyTensor:
    def fetch(start: int, stop: int) -> Tensor:
        rows = tensor[start:stop] if tensor.ndim else tensor
        return rows.clone(memory_format=torch.contiguous_format)

    return LazyTensor(name, tuple(tensor.shape), tensor.dtype, fetch)
