"""A generation and its steps as HTML: the text on the colour of its surprise, and how each token was chosen.

It knows logits only through a Step's own numbers; it draws nothing at random.
"""

import math
from collections.abc import Iterator
from itertools import accumulate, pairwise

from cutaway.sample.generation import Generation
from cutaway.sample.step import Step
from cutaway.sample.table import Candidate
from cutaway.show.colours import ABOVE, SERIES
from cutaway.show.html.parts import aside, block, details, line, meter, piece, safe, table
from cutaway.show.marks import box, drawing, text
from cutaway.show.marks import line as stroke
from cutaway.text.table import visible

STEPS, TEXTS, TOP = 50, 8, 6  # steps and texts that are drawn, and candidates of each
ACROSS = 600  # pixels of the probabilities from 0 to 1


def generation(run: Generation) -> str:
    """Each prompt, faint, and its new text; then its steps, each of which opens."""
    rows = range(min(len(run.new_ids), TEXTS))
    more = [line(f"… and {len(run.new_ids) - TEXTS} more texts", faint=True)] if len(run.new_ids) > TEXTS else []
    return block(*(part for row in rows for part in _text(run, row)), *more)


def step(one: Step) -> str:
    """How one token of each text was chosen."""
    rows = range(min(len(one.ended), TEXTS))
    return block(line(safe(f"step {one.index}: {one.settings}"), faint=True), *(_opened(one, row) for row in rows))


def _text(run: Generation, row: int) -> Iterator[str]:
    prompts = [run.prompt_text] if isinstance(run.prompt_text, str) else run.prompt_text
    steps = [each for each in run.steps if not bool(each.was_over[row])]
    tops = [each.top(TOP, row) for each in steps[:STEPS]]
    written = "".join(_written(one, top, row) for one, top in zip(steps, tops, strict=False))
    rest = safe("".join(each.text[row] for each in steps[STEPS:] if each.text))
    prompt = aside(prompts[row]) if prompts else ""
    yield f'<div class="text">{prompt}{written}{rest}</div>'
    ended = f"ended: {run.ended[row]}" if run.ended[row] else "not ended"
    count = f"{len(steps)} new token{'s' * (len(steps) != 1)}"
    yield line(f"{count}, {ended}; the warmer a token, the less probable the model thought it", faint=True)
    drawn = "".join(_step(one, row, top) for one, top in zip(steps, tops, strict=False))
    left_out = line(f"… and {len(steps) - STEPS} more", faint=True) if len(steps) > STEPS else ""
    yield details(safe(f"how each token was chosen: {run.settings}"), drawn + left_out)


def _written(one: Step, top: list[Candidate], row: int) -> str:
    """What a step added to the text, on the colour of its surprise."""
    chosen = next(candidate for candidate in top if candidate.chosen)
    told = f"step {one.index}: {_named(chosen)}, {chosen.prob_model:.1%} of the model's probability"
    return piece(one.text[row] if one.text else f"{chosen.id} ", ABOVE, _surprise(chosen), told)


def _opened(one: Step, row: int) -> str:
    if bool(one.was_over[row]):
        return line(safe(f"text {row}: over before ({one.ended[row]}); it carries padding"), faint=True)
    return _step(one, row, one.top(TOP, row), opened=True)


def _step(one: Step, row: int, top: list[Candidate], opened: bool = False) -> str:
    """The choice in a line; within, the candidates through each filter, and the draw."""
    chosen = next(candidate for candidate in top if candidate.chosen)
    how, end = ("the highest logit", "the highest") if one.u is None else (f"u = {float(one.u[row]):.4f}", "the draw")
    summary = f"{one.index:>3}  {piece(_named(chosen), ABOVE, _surprise(chosen))}  "
    summary += aside(f"{chosen.prob:.1%}, {how}")
    filters = " → ".join([*(name for name, _ in one.stages()), end])
    head = ("", "piece", "id", "logit", "model", "scaled", "final", "")
    body = line(filters, faint=True) + table(head, map(_row, top), (2, 3, 4, 5, 6))
    return details(summary, body + ("" if one.u is None else _draw(one, row, top, float(one.u[row]))), opened)


def _row(candidate: Candidate) -> tuple[str, ...]:
    probabilities = (f"{p:.2%}" for p in (candidate.prob_model, candidate.prob_scaled, candidate.prob))
    return (
        "▸" if candidate.chosen else "", piece(_named(candidate), ABOVE, 0.25 if candidate.chosen else 0.0),
        str(candidate.id), f"{candidate.logit:.3f}", *probabilities,
        aside(f"removed by {candidate.removed_by}") if candidate.removed_by else meter(candidate.prob, 160),
    )  # fmt: skip


def _draw(one: Step, row: int, top: list[Candidate], u: float) -> str:
    """The probabilities side by side from 0 to 1, in the order of the draw, and u where it fell."""
    shown = [candidate for order, candidate in enumerate(top) if candidate.rank == order and candidate.prob > 0]
    ends = [0.0, *accumulate(candidate.prob for candidate in shown)]
    marks = []
    for order, (candidate, (start, end)) in enumerate(zip(shown, pairwise(ends), strict=True)):
        rgb, share = (ABOVE, 0.9) if candidate.chosen else (SERIES[5], 0.5 - 0.2 * (order % 2))
        told = f"{_named(candidate)}: [{start:.4f}, {end:.4f})"
        marks.append(box(start * ACROSS, 22, (end - start) * ACROSS - 1, 16, rgb, share, told))
    marks += [stroke([(u * ACROSS, 17), (u * ACROSS, 42)]), stroke([(0, 38), (ACROSS, 38)], opacity=0.3)]
    marks += [text(0, 52, "0", faint=True), text(ACROSS, 52, "1", "end", faint=True)]
    title = "u = {:.4f} falls in [{:.4f}, {:.4f})".format(u, *one.interval(row))
    return f'<div class="drawings" hidden="hidden">{drawing(title, ACROSS + 4, 56, marks)}</div>'


def _surprise(chosen: Candidate) -> float:
    """Of the page, so much: by the bits of the model's surprise, all at 8 and more."""
    return 0.9 * min(1.0, -math.log2(max(chosen.prob_model, 1e-9)) / 8)


def _named(candidate: Candidate) -> str:
    return f"id {candidate.id}" if candidate.text is None else visible(candidate.text)
