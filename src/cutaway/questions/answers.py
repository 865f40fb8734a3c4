"""The answer that a question is about: words or ids, one for all texts or one for each, as ids and in words.

It knows a tokenizer; it does not know which question is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cutaway.analysis.metric import Metric, metric_of, row_metric
from cutaway.ground.errors import BadArgument
from cutaway.ground.shapes import sizes
from cutaway.ground.whole import whole
from cutaway.questions.base import Asked
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run

Answer = str | int | Sequence[str] | Sequence[int] | Tensor


@dataclass(frozen=True)
class Answers:
    """Ids, one a text; against: those whose logits are subtracted. measure: in words. notes: how words were taken."""

    ids: tuple[int, ...]
    against: tuple[int, ...] | None
    measure: str
    notes: tuple[str, ...]

    def metrics(self) -> list[Metric]:
        """The measure of each text."""
        others = self.against or (None,) * len(self.ids)
        return [metric_of(id, other) for id, other in zip(self.ids, others, strict=True)]

    def metric(self) -> Metric:
        """The measure of a batch of all texts, a row each."""
        return row_metric(self.ids, self.against)


def answers_of(lm: Asked, count: int, answer: Any, against: Any = None, other: str = "against") -> Answers:
    """For `count` texts. other: what the second argument is called. Raises BadArgument for what is no token."""
    ids, notes = _ids(lm, "answer", answer, count)
    others, more = (None, []) if against is None else _ids(lm, other, against, count)
    return Answers(ids, others, measure(lm, ids, others), tuple(dict.fromkeys([*notes, *more])))


def likeliest(lm: Asked, tokens: Tokens) -> tuple[int, ...]:
    """The likeliest next token of each text."""
    logits = run(lm.decoder, tokens, "logits", positions=-1)["logits"][:, 0]
    return tuple(logits.argmax(-1).tolist())


def measure(lm: Asked, ids: Sequence[int], against: Sequence[int] | None) -> str:
    """The logit of one token, or of each text's own, in words."""
    one = f"logit of {_named(lm, ids, 'the answer')}"
    return one if against is None else f"{one} - logit of {_named(lm, against, 'the other token')}"


def _named(lm: Asked, ids: Sequence[int], several: str) -> str:
    if len(set(ids)) > 1:
        return several
    return repr(lm.token_text(ids[0])) if lm.token_text(ids[0]) else f"token {ids[0]}"


def _ids(lm: Asked, name: str, given: Any, count: int) -> tuple[tuple[int, ...], list[str]]:
    """An id for each text, and notes."""
    if isinstance(given, Tensor) and given.ndim <= 1 and not given.is_meta:
        given = given.tolist()
    if isinstance(given, str) or whole(given) is not None:
        id, notes = _id(lm, name, given)
        return (id,) * count, notes
    if not isinstance(given, list | tuple) or len(given) not in (1, count):
        found = f"{name}={given!r}"[:200]
        several = f", or {count} of them, one for each text" if count > 1 else ""
        raise BadArgument(found, f"a word or an id{several}", f'pass for example {name}=" Paris"')
    pairs = [_id(lm, name, each) for each in given]
    ids = tuple(id for id, _ in pairs)
    return ids * (count // len(ids)), [note for _, notes in pairs for note in notes]


def _id(lm: Asked, name: str, given: Any) -> tuple[int, list[str]]:
    """One word or id as an id. A word that is one token only with a space before it is taken so, with a note."""
    number = whole(given)
    if number is not None:
        rows = sizes(lm.decoder.config)["V"]
        if not 0 <= number < rows:
            raise BadArgument(f"{name}={number}", f"an id from 0 to {rows - 1}", "pass a token of this model")
        return number, []
    if not isinstance(given, str) or not given:
        raise BadArgument(f"{name}={given!r}"[:200], "a word or an id", f'pass for example {name}=" Paris"')
    tokenize = lm.tokenizer.tokenize
    ids = tokenize(given, add_special_tokens=False).ids[0].tolist()
    spaced = [] if given.startswith(" ") else tokenize(f" {given}", add_special_tokens=False).ids[0].tolist()
    if len(ids) == 1:
        other = f"{name}: {given!r} as it is written; {f' {given}'!r}, as after a word, is another token."
        return ids[0], [other] if len(spaced) == 1 and spaced != ids else []
    if len(spaced) == 1:
        return spaced[0], [f"{name}: {given!r} is one token only with its space, {f' {given}'!r}; that one is meant."]
    pieces = " ".join(repr(lm.token_text(id)) for id in ids)
    found = f"{name}={given!r}, {len(ids)} tokens: {pieces}"
    raise BadArgument(found, "a word that is one token", "pass one of its tokens, such as the first")
