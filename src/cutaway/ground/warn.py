"""Warnings that point at the caller's line, not at one inside cutaway.

It does not know what is warned of.
"""

import sys
import warnings
from pathlib import Path

PACKAGE = str(Path(__file__).parents[1])


def warn(message: str) -> None:
    """A UserWarning at the nearest line of the stack that is outside this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_code.co_filename.startswith(PACKAGE) and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
