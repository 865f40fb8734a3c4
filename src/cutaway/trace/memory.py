"""Buffers for recorded values: on the weights' device, in the host's memory, or in a mapped file.

It knows bytes and devices; it does not know sites.
"""

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cutaway.ground.errors import BadArgument
from cutaway.quant.native import pages

ALIGN = 64
CHUNK = 32 << 20  # bytes
LARGE = 2 * CHUNK


class Memory:
    """Memory for tensors of so many bytes in all, on a device.

    A large trace takes the host's memory in chunks: huge pages, which the system allocates three times as fast as small
    ones, and pooled chunks of earlier traces, which need no allocation. Small tensors share chunks of 32 MB, and a live
    tensor holds its chunk; a large tensor has a chunk of its own. A chunk without tensors returns to the pool, where
    the system may reclaim its pages.
    """

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self.device, self.left = device, nbytes
        self.chunk = memoryview(b"")
        self.used = 0
        self.chunked = nbytes >= LARGE and device.type == "cpu" and pages.available

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of this shape, not yet written. Raises BadArgument where there is no memory for it."""
        try:
            return self._take(shape, dtype)
        except (RuntimeError, OSError) as error:  # torch's and the system's errors for having none left
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            found = f"no memory left for a value of {list(shape)}"
            raise BadArgument(
                found, "memory for all that is to be recorded", "record fewer sites, or new tokens"
            ) from error

    def _take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        count, nbytes = math.prod(shape), math.prod(shape) * dtype.itemsize
        if not self.chunked or count == 0:
            return torch.empty(shape, dtype=dtype, device=self.device)
        self.left -= nbytes
        if nbytes >= CHUNK:
            return torch.frombuffer(pages.chunk(nbytes), dtype=dtype, count=count).view(shape)
        if self.used + nbytes > len(self.chunk):
            self.chunk, self.used = pages.chunk(max(nbytes, min(CHUNK, nbytes + self.left))), 0
        value = torch.frombuffer(self.chunk, dtype=dtype, count=count, offset=self.used).view(shape)
        self.used += -(-nbytes // ALIGN) * ALIGN
        return value


class Mapped:
    """Tensors in an unlinked file of their own: nothing is left behind, however the process ends.

    The system pages its values out where memory is short. Raises BadArgument where the folder cannot be written or has
    not that much space, before anything is computed.
    """

    def __init__(self, folder: Path, nbytes: int, tensors: int) -> None:
        size = max(nbytes + tensors * ALIGN, 1)
        try:
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".cutaway-trace-") as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk raises here, and does not crash later
                self.bytes = torch.from_file(file.name, shared=True, size=size, dtype=torch.uint8)
        except OSError as error:
            found = f"{folder}, where {size:,} bytes cannot be written ({error.strerror})"
            raise BadArgument(
                found, "a folder with space for the trace", "record less, or pass to=another folder"
            ) from error
        self.used = 0

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of this shape in the file, not yet written."""
        start, end = self.used, self.used + math.prod(shape) * dtype.itemsize
        self.used = -(-end // ALIGN) * ALIGN
        return self.bytes[start:end].view(dtype).view(tuple(shape))
