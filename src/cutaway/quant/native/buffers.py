"""OutputBuffers: memory into which one native call writes the values inside it, instead of giving them back.

It knows addresses; it does not know names, nor what reads the values.
"""

import ctypes
from collections.abc import Sequence

from torch import Tensor


class OutputBuffers:
    """For each value of a call a tensor [rows, ...], contiguous float32 on the CPU; None where it is not wanted.

    index: the row of each that the next call writes. width: floats of one head's row of attention scores, where these
    are wanted.
    """

    def __init__(self, values: Sequence[Tensor | None], width: int = 0) -> None:
        self.values, self.width, self.index = values, width, 0
        self.starts = (ctypes.c_void_p * len(values))(*(None if v is None else v.data_ptr() for v in values))
        self.steps = (ctypes.c_int64 * len(values))(*(0 if v is None else v.stride(0) for v in values))
