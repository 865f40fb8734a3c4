"""Where recorded values lie: beside the weights, in the host's memory, or in a file mapped into it.

It knows bytes and places; it does not know sites.
"""

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from cutaway.ground.errors import BadArgument

ALIGN = 64


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

    def put(self, value: Tensor) -> Tensor:
        """A copy of the value in the file."""
        start, end = self.used, self.used + value.nbytes
        self.used = -(-end // ALIGN) * ALIGN
        kept = self.bytes[start:end].view(value.dtype).view(value.shape)
        return kept.copy_(value)
