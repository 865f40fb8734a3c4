"""Many texts at once: batches of bounded size, each text alone, and what their numbers are on average.

The spread is the standard deviation over the texts (n - 1 in the divisor). It knows tokens and numbers; it does not
know what is asked of a text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cutaway.ground.errors import BadText
from cutaway.text.pieces import Tokens

AT_ONCE = 1024  # positions of a batch, padding included: their logits over a large vocabulary take some 200 MB


@dataclass(frozen=True)
class Average:
    """Of `texts` texts: the mean and the spread, each with the axes of one text's values. spread: None of one text."""

    mean: Tensor
    spread: Tensor | None
    texts: int


def average(values: Sequence[Tensor]) -> Average:
    """Of one tensor for each text, all of one shape; in float64. A single text's mean is its own values, in bits."""
    if len(values) == 1:
        return Average(values[0].clone(), None, 1)  # a view would keep, and pickle, all of its memory
    stacked = torch.stack([value.double() for value in values])
    return Average(stacked.mean(0), stacked.std(0), len(values))


def batches(tokens: Tokens, at_once: int = AT_ONCE) -> Iterator[Tokens]:
    """The texts in their order, as many at once as `at_once` positions hold, one at least."""
    count, width = tokens.ids.shape
    rows = max(1, at_once // width)
    for start in range(0, count, rows):
        yield _rows(tokens, slice(start, start + rows), slice(None))


def alone(tokens: Tokens) -> list[Tokens]:
    """Each text by itself, without padding."""
    ends = (tokens.last + 1).tolist()
    starts = [end - length for end, length in zip(ends, tokens.lengths.tolist(), strict=True)]
    return [
        _rows(tokens, slice(row, row + 1), slice(start, end))
        for row, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def require_same_length(tokens: Tokens, why: str) -> None:
    """Raises BadText where texts that are averaged position by position differ in length."""
    lengths = sorted(set(tokens.lengths.tolist()))
    if len(lengths) > 1:
        found = f"texts of {lengths[0]} to {lengths[-1]} tokens"
        raise BadText(found, f"texts of equal length, {why}", "change words, or ask of each text by itself")


def _rows(tokens: Tokens, rows: slice, columns: slice) -> Tokens:
    cut = {name: getattr(tokens, name)[rows, columns] for name in ("ids", "mask", "positions")}
    pieces = None if tokens.pieces is None else tuple(row[columns] for row in tokens.pieces[rows])
    return replace(tokens, **cut, pieces=pieces)
