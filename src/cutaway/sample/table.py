"""The table of a step: candidates for the next token, as plain text of at most 80 columns.

It computes no logit and no probability, and does not know what a step is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import wrap

from cutaway.text.table import fit, visible

WIDTH = 80
HEAD = f"  {'id':>7}  {'text':<18} {'logit':>8} {'model':>8} {'scaled':>8} {'final':>8}  removed"


@dataclass(frozen=True)
class Candidate:
    """A candidate for the next token.

    rank: in the order of the draw, from 0, removed tokens last. logit: the model's own. prob_model: its softmax.
    prob_scaled: after repetition penalty and temperature. removed_by: the filter that removed it, "logits" where the
    model gave -inf, None if it stayed. prob: after every filter, as drawn from.
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
    """Title, one line for each candidate (the chosen one marked with >), and the closing sentence."""
    return "\n".join([*wrap(title, WIDTH), HEAD, *_rows(candidates), *wrap(ending, WIDTH)])


def _rows(candidates: list[Candidate]) -> Iterator[str]:
    for index, candidate in enumerate(candidates):
        if candidate.rank != index:
            yield f"  {'...':>7}"
        yield _line(candidate)


def _line(c: Candidate) -> str:
    text = fit("" if c.text is None else visible(c.text), 18)
    numbers = f"{c.logit:>8.3f} {c.prob_model:>8.4f} {c.prob_scaled:>8.4f} {c.prob:>8.4f}"
    return f"{'>' if c.chosen else ' '} {c.id:>7}  {text} {numbers}  {c.removed_by or ''}".rstrip()
