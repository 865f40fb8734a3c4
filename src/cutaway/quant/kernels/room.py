"""Room: where values that are born inside a native step are kept, so that the step itself writes them there.

It knows addresses; it does not know names, nor who reads what is kept.
"""

import ctypes
from collections.abc import Sequence

from torch import Tensor

SLOTS = 6  # as in paths.h


class Room(ctypes.Structure):
    """Up to six values, float32 on the CPU. paths.h holds the same struct: change both together.

    `at` is the pass whose values are written next: into row `at` of each of the tensors.
    """

    _fields_ = (("start", ctypes.c_void_p * SLOTS), ("step", ctypes.c_int64 * SLOTS), ("at", ctypes.c_int64))

    def __init__(self, values: Sequence[Tensor | None]) -> None:
        """values: each [passes, ...], a pass's elements side by side; None where a value is not asked for."""
        super().__init__()
        for slot, value in enumerate(values):
            if value is not None:
                self.start[slot], self.step[slot] = value.data_ptr(), value[0].numel()
        self.address = ctypes.addressof(self)
