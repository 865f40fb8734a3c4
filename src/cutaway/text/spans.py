"""Spans of pieces that cover their text, from a tokenizer's offsets, which leave out what a normalizer dropped.

It does not know a vocabulary, nor where the offsets came from.
"""

import unicodedata
from collections.abc import Sequence

Span = tuple[int, int] | None


def covering(text: str, offsets: Sequence[Span], ends_in_space: Sequence[bool]) -> list[Span]:
    """The offsets, widened by the characters that none of them has: dropped ones, and spaces between words.

    Such a character belongs to the piece after it, as a space does in most vocabularies; to the piece before it where
    it is a mark on that piece's last character, where that piece is spelled with its space, and at the text's end.
    """
    spans, done, last = list(offsets), 0, None  # last: the index of the piece that ends at `done`
    for n, offset in enumerate(offsets):
        if offset is None:
            continue
        start, end = offset
        if start > done:
            cut = done
            while (
                last is not None and cut < start and (ends_in_space[last] or unicodedata.category(text[cut])[0] == "M")
            ):
                cut += 1
            spans[n] = (cut, end)
            _end_at(spans, last, cut)
        if end >= done:
            done, last = end, n
    _end_at(spans, last, len(text))
    return spans


def _end_at(spans: list[Span], index: int | None, end: int) -> None:
    """Widen one of the spans, if there is one, to the right."""
    span = None if index is None else spans[index]
    if index is not None and span is not None:
        spans[index] = (span[0], max(span[1], end))
