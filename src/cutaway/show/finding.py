"""Finding: the result of an analysis, as data and drawn as text.

It does not know which analysis it was.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """data: for JSON. text: drawn in at most 80 columns. notes: what the drawing leaves out, a sentence each."""

    data: Any
    text: str
    notes: tuple[str, ...] = ()

    def as_data(self) -> Any:
        return self.data

    def __str__(self) -> str:
        return self.text
