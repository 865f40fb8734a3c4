"""LazyTensor: a tensor that is still in its file, and the positioned read that fetches it.

It does not know any file format, nor what a tensor is for.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from cutaway.ground.errors import BadArgument, BadCheckpoint

Note = Callable[[str], None]
"""note(line): one sentence that the user should know."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor's facts, known without reading it.

    dtype is what read() gives, which is not always what the file holds: quantized blocks come out as float32.
    fetch(start, stop) reads leading rows [start, stop); a tensor without axes counts as one row.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    fetch: Callable[[int, int], Tensor]
    place: tuple[Path, int] | None = None  # the file and byte where it lies row after row as torch lays it out

    @property
    def n_rows(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor once read."""
        return prod(self.shape) * self.dtype.itemsize

    def read(self, rows: slice | None = None) -> Tensor:
        """A fresh CPU copy of the tensor, or of some leading rows, that holds no mapping of the file.

        rows: a slice without a step. Raises BadArgument for another one, BadCheckpoint where the file shrank.
        """
        if rows is None:
            return self.fetch(0, self.n_rows).reshape(self.shape)
        if rows.step not in (None, 1) or not self.shape:
            found = f"rows={rows} of {self.name!r} with shape {list(self.shape)}"
            raise BadArgument(found, "a slice of leading rows, without a step", "read the whole tensor and index it")
        start, stop, _ = rows.indices(self.n_rows)
        stop = max(start, stop)
        return self.fetch(start, stop).reshape(stop - start, *self.shape[1:])

    def mapped(self) -> Tensor | None:
        """The tensor in its file, of which only the pages that are read come into memory; None where it is not
        stored as torch lays it out. Writing to it changes neither the file nor another mapping.
        """
        if self.place is None or self.place[1] % self.dtype.itemsize:
            return None
        path, offset = self.place
        count, before = prod(self.shape), offset // self.dtype.itemsize
        whole = torch.from_file(str(path), shared=False, size=before + count, dtype=self.dtype)
        return whole[before:].view(self.shape)

    def renamed(self, name: str) -> "LazyTensor":
        """The same tensor under another name."""
        return replace(self, name=name)

    def rearranged(
        self, shape: tuple[int, ...], arrange: Callable[[Tensor], Tensor], group: int | None = None
    ) -> "LazyTensor":
        """This tensor, its elements moved to `shape` when read.

        group: rows that `arrange` mixes only among themselves, so that some rows cost a read of their groups;
        None: any row may come from anywhere, and some rows cost a read of all.
        """

        def fetch(start: int, stop: int) -> Tensor:
            first, last = (start // group * group, -(-stop // group) * group) if group else (0, self.n_rows)
            rows = arrange(self.read(slice(first, last)))
            offset = first if group else 0
            return rows[start - offset : stop - offset].clone(memory_format=torch.contiguous_format)

        return replace(self, shape=shape, fetch=fetch, place=None)


def stored_plainly(name: str, shape: tuple[int, ...], dtype: torch.dtype, path: Path, offset: int) -> LazyTensor:
    """A tensor whose elements lie in `path` from byte `offset` on, row after row, as torch lays them out."""
    row_bytes = prod(shape[1:]) * dtype.itemsize

    def fetch(start: int, stop: int) -> Tensor:
        return read_at(path, offset + start * row_bytes, (stop - start) * row_bytes).view(dtype)

    return LazyTensor(name, shape, dtype, fetch, (path, offset))


def read_at(path: Path, offset: int, nbytes: int) -> Tensor:
    """`nbytes` bytes of a file from `offset` on, as a uint8 tensor of its own.

    A positioned read, not a mapping: pages of a mapped file count in the process's memory once touched.
    """
    data = torch.empty(nbytes, dtype=torch.uint8, device="cpu")
    view = data.numpy().data
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        filled = 0
        while filled < nbytes:  # one call gives at most 2 GiB
            got = file.readinto(view[filled:])
            if not got:
                raise truncated(path, f"{offset + filled} bytes", f"at least {offset + nbytes}")
            filled += got
    return data


def truncated(path: Path, found: str, expected: str) -> BadCheckpoint:
    """The error of a file that ends too early."""
    return BadCheckpoint(
        f"{path.name} ends too early ({found})", expected, f"fetch the file again: {path} is not whole"
    )
