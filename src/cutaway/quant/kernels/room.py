"""Room: where values that are born inside a native step are kept, so that the step itself writes them there.

It knows addresses; it does not know names, nor who reads what is kept.
"""

import ctypes
import math
from collections.abc import Sequence

from torch import Tensor

SLOTS = 8  # as in paths.h


class Room(ctypes.Structure):
    """Up to eight values, float32 on the CPU. paths.h holds the same struct: change both together.

    `at` is the row of each of the tensors where the next values are written: one, or as many as the step makes.
    """

    _fields_ = (("start", ctypes.c_void_p * SLOTS), ("step", ctypes.c_int64 * SLOTS), ("at", ctypes.c_int64))

    def __init__(self, values: Sequence[Tensor | None]) -> None:
        """values: each [rows, ...], contiguous; None where a value is not asked for."""
        super().__init__()
        self.values = [*values, *[None] * (SLOTS - len(values))]
        for slot, value in enumerate(values):
            if value is not None:
                self.start[slot], self.step[slot] = value.data_ptr(), value[0].numel()
        self.address = ctypes.addressof(self)

    def of(self, slot: int, shape: Sequence[int]) -> Tensor | None:
        """What is written next, as a tensor of this shape; None where nobody asks for it."""
        value = self.values[slot]
        if value is None:
            return None
        start, count = self.at * self.step[slot], math.prod(shape)
        return value.view(-1)[start : start + count].view(shape)
