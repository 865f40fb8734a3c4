"""A token as the page is told it: its id, its text, its exact bytes, and where it stands in the text.

It does not know the tokenizer.
"""

from typing import Any

from cutaway.text.pieces import Piece


def token(piece: Piece) -> dict[str, Any]:
    """One piece as JSON; start and end in characters of the text, None where it is not in it."""
    start, end = piece.span or (None, None)
    return {"id": piece.id, "text": piece.text, "bytes": list(piece.bytes), "start": start, "end": end,
            "special": piece.special}  # fmt: skip
