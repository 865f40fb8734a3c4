"""The recorder of a generation: a tap with preallocated buffers, filled with the prompt's columns, then one a token.

It knows what each value will take; it does not know which tokens the columns are, nor which texts they belong to.
"""

import math
from collections.abc import Sequence
from ctypes import memmove

import torch
from torch import Tensor

from cutaway.edit.positions import FIRST_SITE
from cutaway.ground.errors import BadArgument
from cutaway.quant.native import OutputBuffers
from cutaway.trace.memory import Memory
from cutaway.trace.plan import Row

FILLED = 256 << 20  # bytes; above, a large page for each value would be taken long before it is filled
ATTENTION = ("attn.scores", "attn.pattern")  # they gain a row and a column


class GenerationRecorder:
    """A tap that copies each pass's values beside those of the passes before.

    rows: the values, and what they will take. columns: as many as there may be.
    """

    def __init__(self, rows: Sequence[Row], columns: int, device: torch.device) -> None:
        self.order, self.columns = [row.site for row in rows], columns
        self.sites = frozenset(self.order)
        shapes = {row: _shape(row, columns) for row in rows}
        nbytes = sum(math.prod(shape) * row.dtype.itemsize for row, shape in shapes.items())
        memory = Memory(nbytes if nbytes <= FILLED else 0, device)
        self.values = {row.site: memory.take(shape, row.dtype) for row, shape in shapes.items()}
        self.addresses: dict[str, tuple[int, int]] = {}  # where a site's columns begin, and the bytes of each
        # by the identity of the names: to hash hundreds of them at every token takes long
        self.known: dict[int, tuple[tuple[str, ...], OutputBuffers | None]] = {}
        self.column, self.filled = 0, 0  # where this pass's values begin, and where the next pass's will

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name == FIRST_SITE:
            self._begin(value.shape[1])
        address = self.addresses.get(name)  # hundreds of values a token may pass here: bytes, where bytes will do
        if address is not None and value.nbytes == address[1] and value.is_contiguous():
            memmove(address[0] + self.column * address[1], value.data_ptr(), address[1])
        elif name in self.sites:
            self._put(name, value)
        return value

    def wants(self, *names: str) -> bool:
        return not self.sites.isdisjoint(names)

    def changes(self, *names: str) -> bool:
        return False

    def buffers(self, names: tuple[str, ...]) -> OutputBuffers | None:
        """The next column of each of these values."""
        asked, buffers = self.known.get(id(names), ((), None))
        if asked is not names:
            values = [self.values.get(name) for name in names]
            fits = all(value is None or (value.is_cpu and value.dtype == torch.float32) for value in values)
            buffers = OutputBuffers(values, self.columns) if fits else None
            self.known[id(names)] = names, buffers
        if buffers is not None:
            buffers.index = self.column
        return buffers

    def _begin(self, new: int) -> None:
        """A pass over so many more columns."""
        self.column, self.filled = self.filled, self.filled + new
        if self.filled > self.columns:
            found, expected = f"values of {self.filled} positions", f"at most {self.columns}, as planned"
            raise BadArgument(found, expected, "record each generation with a tap of its own")

    def _put(self, name: str, value: Tensor) -> None:
        buffer = self.values[name][self.column : self.filled]
        if name.endswith(ATTENTION):
            buffer[..., : value.shape[-1]] = value.permute(2, 0, 1, 3)
            return
        buffer.copy_(value.transpose(0, 1))
        if value.is_cpu and buffer.is_cpu and value.dtype == buffer.dtype:
            self.addresses[name] = self.values[name].data_ptr(), buffer[0].nbytes


def _shape(row: Row, columns: int) -> tuple[int, ...]:
    """[columns, B, ...], so that a column of all texts lies together; of scores and patterns, each [B, H, columns]."""
    batch, *rest = row.shape
    return (columns, batch, rest[0], columns) if row.site.endswith(ATTENTION) else (columns, batch, *rest[1:])
