"""Room for values that gain a column with every pass of a generation, and the tap that fills it.

It knows what each value will take; it does not know which tokens the columns are, nor which texts they belong to.
"""

import math
from collections.abc import Sequence
from ctypes import memmove

import torch
from torch import Tensor

from cutaway.edit.positions import FIRST_SITE
from cutaway.ground.errors import BadArgument
from cutaway.quant.native import Room
from cutaway.trace.memory import Memory
from cutaway.trace.plan import Row

FILLED = 256 << 20  # bytes; above, a large page for each value would be taken long before it is filled
TWO_AXES = ("attn.scores", "attn.pattern")  # they gain a row and a column: they are kept pass by pass


class Growing:
    """A tap that copies each pass's values beside those of the passes before: the prompt's columns, then one a pass.

    rows: the values, and what they will take. columns: as many as there may be.
    """

    def __init__(self, rows: Sequence[Row], columns: int, device: torch.device) -> None:
        self.order, self.columns = [row.site for row in rows], columns
        self.sites = frozenset(self.order)
        self.parts: dict[str, list[Tensor]] = {row.site: [] for row in rows if row.site.endswith(TWO_AXES)}
        self.batch = rows[0].shape[0] if rows else 0
        self.values: dict[str, Tensor] = {}  # [B, columns, ...]; a column of all texts lies together
        shapes = {row: (columns, row.shape[0], *row.shape[2:]) for row in rows if row.site not in self.parts}
        nbytes = sum(math.prod(shape) * row.dtype.itemsize for row, shape in shapes.items())
        memory = Memory(nbytes if nbytes <= FILLED else 0, device)
        for row, shape in shapes.items():
            self.values[row.site] = memory.take(shape, row.dtype).transpose(0, 1)
        self.direct: dict[str, tuple[int, int]] = {}  # where a site's columns begin, and the bytes of each
        # by the identity of the names: to hash a thousand of them at every token takes long
        self.rooms: dict[int, tuple[tuple[str, ...], Room | None]] = {}
        self.column, self.filled = 0, 0  # where this pass's values begin, and where the next pass's will

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name == FIRST_SITE:
            self._begin(value.shape[1])
        place = self.direct.get(name)  # hundreds of values a token pass here: bytes, where bytes will do
        if place is not None and value.nbytes == place[1] and value.is_contiguous():
            memmove(place[0] + self.column * place[1], value.data_ptr(), place[1])
        elif name in self.sites:
            self._put(name, value)
        return value

    def wants(self, *names: str) -> bool:
        return not self.sites.isdisjoint(names)

    def changes(self, *names: str) -> bool:
        return False

    def room(self, names: tuple[str, ...], places: int) -> Room | None:
        """Where a step writes these values itself: beside those of the passes before."""
        if places != 1 and self.batch != 1:  # the columns of a text do not lie side by side
            return None
        asked, room = self.rooms.get(id(names), ((), None))
        if asked is not names:
            room = self._room_of(names)
            self.rooms[id(names)] = names, room
        if room is not None:
            room.at = self.column
        return room

    def _room_of(self, names: tuple[str, ...]) -> Room | None:
        values = [self.values[name].transpose(0, 1) if name in self.values else None for name in names]
        fits = all(value is None or (value.is_cpu and value.dtype == torch.float32) for value in values)
        return Room(values) if fits and self.parts.keys().isdisjoint(names) else None

    def _begin(self, new: int) -> None:
        """A pass over so many more columns."""
        self.column, self.filled = self.filled, self.filled + new
        if self.filled > self.columns:
            expected = f"at most {self.columns}, as planned"
            raise BadArgument(
                f"values of {self.filled} places", expected, "record each generation with a tap of its own"
            )

    def _put(self, name: str, value: Tensor) -> None:
        if name in self.parts:
            self.parts[name].append(value)
            return
        room = self.values[name]
        room[:, self.column : self.filled] = value
        if value.is_cpu and room.is_cpu and value.dtype == room.dtype:
            self.direct[name] = room.data_ptr(), room[:, 0].nbytes
