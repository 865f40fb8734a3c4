"""The table of a step: the tokens that could have been next, and their rendering as plain text of at most 80 columns.

It computes no logit and no probability: it is told. It does not know what a step is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import wrap

from cutaway.text.table import cut, padded

WIDTH = 80
HEAD = f"  {'id':>7}  {'text':<18} {'logit':>8} {'model':>8} {'scaled':>8} {'final':>8}  removed"


@dataclass(frozen=True)
class Candidate:
    """One token that could have been next.

    rank: 0 for the first in the order of the draw, the removed ones behind. logit: the model's own. prob_model: its
    softmax. prob_scaled: after repetition penalty and temperature. removed_by: the filter that took it out, "logits"
    where the model gave -inf, None if it stayed. prob: after every filter, what the draw used.
    """

    id: int
    text: str | None
    rank: int
    logit: float
    prob_model: float
    prob_scaled: float
    removed_by: str | None
    prob: float
    chosen: bool


def table(title: str, candidates: list[Candidate], ending: str) -> str:
    """Title, one line a candidate (the chosen one marked with >), and the sentence that ends it."""
    return "\n".join([*wrap(title, WIDTH), HEAD, *_rows(candidates), *wrap(ending, WIDTH)])


def _rows(candidates: list[Candidate]) -> Iterator[str]:
    for place, candidate in enumerate(candidates):
        if candidate.rank != place:
            yield f"  {'...':>7}"
        yield _line(candidate)


def _line(c: Candidate) -> str:
    text = padded(cut("" if c.text is None else repr(c.text), 18), 18)
    numbers = f"{c.logit:>8.3f} {c.prob_model:>8.4f} {c.prob_scaled:>8.4f} {c.prob:>8.4f}"
    return f"{'>' if c.chosen else ' '} {c.id:>7}  {text} {numbers}  {c.removed_by or ''}".rstrip()
