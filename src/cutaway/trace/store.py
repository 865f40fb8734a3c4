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

import torch
from torch import Tensor

from cutaway.ground.errors import BadArgument

ALIGN = 64
CHUNK = 32 << 20  # bytes
LARGE = 4 * CHUNK


class Memory:
    """Memory for tensors of so many bytes in all, on a device.

    A large trace takes the host's memory in chunks of large pages: the system gives 1.4 GB of those in 0.1 s, of
    small ones in 0.4 s. A tensor there keeps its chunk, and so up to 32 MB, for as long as it lives.
    """

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self.device, self.left = device, nbytes
        self.chunk: mmap.mmap | None = None
        self.used = 0
        self.chunked = nbytes >= LARGE and device.type == "cpu" and hasattr(mmap, "MADV_HUGEPAGE")

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of this shape, not yet written."""
        count = math.prod(shape)
        if not self.chunked or count == 0:
            return torch.empty(shape, dtype=dtype, device=self.device)
        nbytes = count * dtype.itemsize
        if self.chunk is None or self.used + nbytes > len(self.chunk):
            self.chunk, self.used = _chunk(max(nbytes, min(CHUNK, self.left))), 0
        value = torch.frombuffer(self.chunk, dtype=dtype, count=count, offset=self.used).view(shape)
        self.used += -(-nbytes // ALIGN) * ALIGN
        self.left -= nbytes
        return value


def _chunk(nbytes: int) -> mmap.mmap:
    chunk = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a system without large pages has small ones
        chunk.madvise(mmap.MADV_HUGEPAGE)
    return chunk


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
