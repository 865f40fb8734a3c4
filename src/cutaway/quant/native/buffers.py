"""Room: where values that are born inside a native step are kept, so that the step itself writes them there.

It knows addresses; it does not know names, nor who reads what is kept.
"""

import ctypes
import math
from collections.abc import Sequence

from torch import Tensor


class Room(ctypes.Structure):
    """Places for values, float32 on the CPU. paths.h holds the same struct: change both together.

    `at` is the row of each of the tensors where the next values are written: one, or as many as the step makes.
    """

    _fields_ = (("start", ctypes.c_void_p), ("step", ctypes.c_void_p), ("at", ctypes.c_int64))

    def __init__(self, values: Sequence[Tensor | None]) -> None:
        """values: each [rows, ...], contiguous; None where a value is not asked for."""
        self.values = values
        self.starts = (ctypes.c_void_p * len(values))(*(None if v is None else v.data_ptr() for v in values))
        self.steps = (ctypes.c_int64 * len(values))(*(0 if v is None else v[0].numel() for v in values))
        super().__init__(ctypes.addressof(self.starts), ctypes.addressof(self.steps), 0)
        self.address = ctypes.addressof(self)

    def of(self, slot: int, shape: Sequence[int]) -> Tensor | None:
        """What is written next, as a tensor of this shape; None where nobody asks for it."""
        value = self.values[slot]
        if value is None:
            return None
        start, count = self.at * self.steps[slot], math.prod(shape)
        return value.view(-1)[start : start + count].view(shape)
