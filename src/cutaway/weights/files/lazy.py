"""LazyTensor: a tensor that is read from its file on demand, by a positioned read or from one mapping of the file.

It does not know any file format, nor what a tensor is for.
"""

import mmap
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from cutaway.ground.errors import BadArgument, BadCheckpoint, NotFinite

Note = Callable[[str], None]
"""note(line): one sentence that the user should know."""


class FileMapping:
    """A file that was opened, mapped as a whole when its first tensor is: a mapping for each would take the address
    space many times over. Writing to it changes neither the file nor the mapping of another opening."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def memory(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


@dataclass(frozen=True)
class LazyTensor:
    """A tensor's name, shape and dtype, without its values.

    dtype is that of read(), not always the file's: quantized blocks are read as float32. fetch(start, stop) reads the
    rows [start, stop) of the first axis; a tensor without axes counts as one row.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    fetch: Callable[[int, int], Tensor]
    location: tuple[FileMapping, int] | None = None  # and byte offset, where it is stored as torch would
    groups: Callable[[int, int], tuple[Tensor, Tensor]] | None = None  # read_groups; None where it is stored otherwise
    apart: Callable[[int], "LazyTensor"] | None = None  # `part` of a stack whose rows can be read in parts

    @property
    def n_rows(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor once read."""
        return prod(self.shape) * self.dtype.itemsize

    def read(self, rows: slice | None = None) -> Tensor:
        """A fresh CPU copy of the tensor, or of some rows of its first axis, not a mapping.

        rows: a slice without a step. Raises BadArgument for another one, BadCheckpoint for a truncated file.
        """
        if rows is None:
            return self.fetch(0, self.n_rows).reshape(self.shape)
        if rows.step not in (None, 1) or not self.shape:
            found = f"rows={rows} of {self.name!r} with shape {list(self.shape)}"
            raise BadArgument(found, "a slice of leading rows, without a step", "read the whole tensor and index it")
        start, stop, _ = rows.indices(self.n_rows)
        stop = max(start, stop)
        return self.fetch(start, stop).reshape(stop - start, *self.shape[1:])

    def part(self, index: int) -> "LazyTensor":
        """Row `index` of the first axis as a tensor of its own."""
        if self.apart is not None:
            return self.apart(index)
        shape = self.shape[1:]
        if self.location is not None:
            file, start = self.location
            return stored_plainly(self.name, shape, self.dtype, file, start + index * prod(shape) * self.dtype.itemsize)
        return LazyTensor(self.name, shape, self.dtype, lambda a, b: self.read(slice(index, index + 1))[0, a:b])

    def read_groups(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Some rows of a matrix that Q8_0 holds exactly: codes int8 [R, K], scales float16 [R, K / 32].

        Raises NotFinite for a scale that is NaN or infinite.
        """
        assert self.groups is not None, "the caller has asked whether it is stored so"
        codes, scale = self.groups(rows.start, rows.stop)
        if not scale.isfinite().all():
            found = f"a scale that is NaN or infinite in the tensor {self.name!r}"
            raise NotFinite(found, "finite scales", "fetch the file again")
        return codes, scale

    def mapped(self) -> Tensor | None:
        """The tensor in its file's mapping: only pages that are read take memory. None where it has no location."""
        if self.location is None or self.location[1] % self.dtype.itemsize or not self.nbytes:
            return None
        file, offset = self.location
        flat = torch.frombuffer(file.memory, dtype=self.dtype, count=prod(self.shape), offset=offset)
        return flat.view(self.shape)

    def renamed(self, name: str) -> "LazyTensor":
        """The same tensor under another name."""
        return replace(self, name=name)

    def permuted(self, index_N: Tensor) -> "LazyTensor":
        """This tensor with row index[n] as its row n; reading some rows reads few others, and each run at once."""

        def runs(start: int, stop: int) -> list[tuple[int, int, Tensor | slice]]:
            own = index_N[start:stop]
            first, last = int(own.min()), int(own.max()) + 1
            if last - first <= 2 * len(own):  # every other row, as of two interleaved matrices
                return [(first, last, own - first)]
            ends = [*((own.diff() != 1).nonzero()[:, 0] + 1).tolist(), len(own)]
            return [(int(own[a]), int(own[b - 1]) + 1, slice(None)) for a, b in pairwise([0, *ends]) if a < b]

        def fetch(start: int, stop: int) -> Tensor:
            return torch.cat([self.read(slice(a, b))[which] for a, b, which in runs(start, stop)])

        def groups(start: int, stop: int) -> tuple[Tensor, Tensor]:
            assert self.groups is not None, "offered for these only"
            parts = [[part[which] for part in self.groups(a, b)] for a, b, which in runs(start, stop)]
            codes, scales = (torch.cat(part) for part in zip(*parts, strict=True))
            return codes, scales

        return replace(self, fetch=fetch, location=None, apart=None, groups=None if self.groups is None else groups)

    def rearranged(
        self, shape: tuple[int, ...], arrange: Callable[[Tensor], Tensor], group: int | None = None
    ) -> "LazyTensor":
        """This tensor, rearranged to `shape` when read.

        group: `arrange` permutes rows within groups of this many, so that reading some rows reads their groups only;
        None: it may move any row, and reading some rows reads all.
        """

        def fetch(start: int, stop: int) -> Tensor:
            first, last = (start // group * group, -(-stop // group) * group) if group else (0, self.n_rows)
            rows = arrange(self.read(slice(first, last)))
            offset = first if group else 0
            return rows[start - offset : stop - offset].clone(memory_format=torch.contiguous_format)

        def groups(start: int, stop: int) -> tuple[Tensor, Tensor]:
            assert group is not None and self.groups is not None, "offered for these only"
            first, last = start // group * group, -(-stop // group) * group
            codes, scale = (arrange(part)[start - first : stop - first] for part in self.groups(first, last))
            return codes, scale

        within = groups if group is not None and self.groups is not None else None
        return replace(self, shape=shape, fetch=fetch, location=None, apart=None, groups=within)


def stored_plainly(name: str, shape: tuple[int, ...], dtype: torch.dtype, file: FileMapping, offset: int) -> LazyTensor:
    """A tensor stored contiguously in a file from byte `offset` on, in torch's layout."""
    row_bytes = prod(shape[1:]) * dtype.itemsize

    def fetch(start: int, stop: int) -> Tensor:
        return read_at(file.path, offset + start * row_bytes, (stop - start) * row_bytes).view(dtype)

    return LazyTensor(name, shape, dtype, fetch, (file, offset))


def read_at(path: Path, offset: int, nbytes: int) -> Tensor:
    """`nbytes` bytes of a file from `offset` on, as a new uint8 tensor.

    A read, not a mapping: touched pages of a mapped file count as the process's memory.
    """
    data = torch.empty(nbytes, dtype=torch.uint8, device="cpu")
    view = data.numpy().data
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        filled = 0
        while filled < nbytes:  # one call reads at most 2 GiB
            got = file.readinto(view[filled:])
            if not got:
                raise truncated(path, f"{offset + filled} bytes", f"at least {offset + nbytes}")
            filled += got
    return data


def truncated(path: Path, found: str, expected: str) -> BadCheckpoint:
    """The error for a file that ends too early."""
    return BadCheckpoint(
        f"{path.name} ends too early ({found})", expected, f"fetch the file again: {path} is not whole"
    )
