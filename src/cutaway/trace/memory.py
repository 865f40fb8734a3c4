"""Where recorded values lie: beside the weights, in the host's memory, or in a file mapped into it.

It knows bytes and places; it does not know sites.
"""

import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from weakref import finalize

import torch
from torch import Tensor

from cutaway.ground.errors import BadArgument

ALIGN = 64
CHUNK = 32 << 20  # bytes
LARGE = 2 * CHUNK
_waiting: list[mmap.mmap] = []  # chunks that no tensor uses any more


class Memory:
    """Memory for tensors of so many bytes in all, on a device.

    A large trace takes the host's memory in chunks: large pages, which the system gives three times as fast as small
    ones, and those of earlier traces again, which it need not give at all. Small tensors share chunks of 32 MB, and one
    keeps its chunk as long as it lives; a large one has a chunk of its own. A chunk without tensors waits for the next
    trace, unless the system wants it back.
    """

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self.device, self.left = device, nbytes
        self.chunk = memoryview(b"")
        self.used = 0
        self.chunked = nbytes >= LARGE and device.type == "cpu" and hasattr(mmap, "MADV_HUGEPAGE")

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of this shape, not yet written. Raises BadArgument where there is no memory for it."""
        try:
            return self._take(shape, dtype)
        except (RuntimeError, OSError) as error:  # torch's and the system's words for having none left
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            found = f"no memory left for a value of {list(shape)}"
            raise BadArgument(
                found, "room for all that is to be recorded", "record fewer sites, or new tokens"
            ) from error

    def _take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        count, nbytes = math.prod(shape), math.prod(shape) * dtype.itemsize
        if not self.chunked or count == 0:
            return torch.empty(shape, dtype=dtype, device=self.device)
        self.left -= nbytes
        if nbytes >= CHUNK:
            return torch.frombuffer(_chunk(nbytes), dtype=dtype, count=count).view(shape)
        if self.used + nbytes > len(self.chunk):
            self.chunk, self.used = _chunk(max(nbytes, min(CHUNK, nbytes + self.left))), 0
        value = torch.frombuffer(self.chunk, dtype=dtype, count=count, offset=self.used).view(shape)
        self.used += -(-nbytes // ALIGN) * ALIGN
        return value


def _chunk(nbytes: int) -> memoryview:
    """At least so many bytes; they wait for the next one who asks when nothing refers to the view any more."""
    size = -(-nbytes // CHUNK) * CHUNK
    for waiting in sorted(_waiting, key=len):
        if size <= len(waiting) <= 2 * size and _drop(waiting):
            return _lent(waiting)
    # A new one takes the place of those that did not fit: what waits never grows past what was once in use.
    left = size
    for waiting in tuple(_waiting):
        if left > 0 and _drop(waiting):
            left -= len(waiting)
    try:
        chunk = _new(size)
    except OSError:
        if not _waiting:
            raise
        _waiting.clear()
        chunk = _new(size)
    _advise(chunk, mmap.MADV_HUGEPAGE)
    return _lent(chunk)


def _drop(chunk: mmap.mmap) -> bool:
    """Take a chunk from those that wait; whether it was still there."""
    try:
        _waiting.remove(chunk)
    except ValueError:  # another thread was faster
        return False
    return True


def _new(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _lent(chunk: mmap.mmap) -> memoryview:
    view = memoryview(chunk)
    finalize(view, _wait, chunk).atexit = False
    return view


def _wait(chunk: mmap.mmap) -> None:
    _advise(chunk, mmap.MADV_FREE)  # the system may take its pages, and does before it runs out of others
    _waiting.append(chunk)


def _advise(chunk: mmap.mmap, advice: int) -> None:
    with suppress(OSError):  # a system that does not know it gives the same memory, more slowly
        chunk.madvise(advice)


class Mapped:
    """Room for tensors in a file of its own, which has no name: nothing is left behind, however the process ends.

    What is put there lies in memory only as long as the system has room for it. Raises BadArgument where the folder
    cannot be written or has not that much room, before anything is computed.
    """

    def __init__(self, folder: Path, nbytes: int, tensors: int) -> None:
        room = max(nbytes + tensors * ALIGN, 1)
        try:
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".cutaway-trace-") as file:
                os.posix_fallocate(file.fileno(), 0, room)  # a full disk is told here, not by a crash later
                self.bytes = torch.from_file(file.name, shared=True, size=room, dtype=torch.uint8)
        except OSError as error:
            found = f"{folder}, where {room:,} bytes cannot be written ({error.strerror})"
            raise BadArgument(
                found, "a folder with room for the trace", "record less, or pass to=another folder"
            ) from error
        self.used = 0

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of this shape in the file, not yet written."""
        start, end = self.used, self.used + math.prod(shape) * dtype.itemsize
        self.used = -(-end // ALIGN) * ALIGN
        return self.bytes[start:end].view(dtype).view(tuple(shape))
