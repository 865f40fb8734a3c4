"""Next tokens with their probabilities, as data; and the effect of edits on them as text, before and after.

It knows an Effect and the text of ids; it does not know which edits there were.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cutaway.analysis.effect import Effect
from cutaway.show.finding import Finding
from cutaway.show.pictures import Bars, Picture
from cutaway.text.pieces import Tokens
from cutaway.text.table import cut, visible

WIDE = 14  # columns of a token's text


@dataclass(frozen=True, eq=False, repr=False)
class EffectFinding(Finding, Effect):
    """An Effect with the words of its ids. print it for the tokens of each text before and after."""

    words: dict[int, str]

    __repr__ = Finding.__repr__

    @property
    def axes(self) -> Mapping[str, list[str]]:
        """The texts, by number."""
        return {"text": [str(row + 1) for row in range(len(self.kl))]}

    def to_dict(self) -> dict[str, Any]:
        return self.as_data()

    def records(self) -> list[dict[str, Any]]:
        rows = []
        for row, kl in enumerate(self.kl):
            before, after = dict(self.before[row]), dict(self.after[row])
            rows += [
                {"text": row, "kl": kl, "id": id, "token": self.words[id], "before": before.get(id),
                 "after": after.get(id), "change": change}
                for id, change in self.change[row]
            ]  # fmt: skip
        return rows

    def __str__(self) -> str:
        return effect_table(self, self.words.__getitem__)

    def pictures(self) -> list[Picture]:
        word = {id: visible(text) for id, text in self.words.items()}
        bars: list[Picture] = [
            Bars(f"text {row + 1}: probability with the edits - without", [word[id] for id, _ in changes],
                 [change for _, change in changes], "probability")
            for row, changes in enumerate(self.change)
        ]  # fmt: skip
        if len(self.kl) > 1:
            bars.insert(0, Bars("KL(without ‖ with the edits)", self.axes["text"], list(self.kl), "nats"))
        return bars


def effect_finding(model: str, effect: Effect, word: Callable[[int], str]) -> EffectFinding:
    """word: the text of an id."""
    words = {id: word(id) for changes in effect.change for id, _ in changes}
    return EffectFinding(**vars(effect), words=words, model=model)


def named(likeliest: Iterable[tuple[int, float]], word: Callable[[int], str]) -> list[dict[str, Any]]:
    """Tokens and their probabilities, with each token's text. word: the text of an id."""
    return [{"id": i, "text": word(i), "prob": prob} for i, prob in likeliest]


def pieces_of(tokens: Tokens, row: int) -> list[str]:
    """The pieces of a text as shown, without the padding."""
    return [piece.visible for piece in (tokens.pieces or ())[row] if not piece.padding]


def effect_table(effect: Effect, show: Callable[[int], str]) -> str:
    """A block for each text: KL, and in each row the next likeliest token without the edits and with them."""
    blocks = []
    for row, kl in enumerate(effect.kl):
        which = f"text {row + 1} of {len(effect.kl)}: " if len(effect.kl) > 1 else ""
        lines = [
            f"{which}next token, KL(without ‖ with the edits) = {kl:.4g} nats",
            f"{'without':<24}{'with':<24}".rstrip(),
        ]
        for before, after in zip(effect.before[row], effect.after[row], strict=True):
            lines.append("".join(f"{_cell(*side, show):<24}" for side in (before, after)).rstrip())
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _cell(token: int, probability: float, show: Callable[[int], str]) -> str:
    text = cut(visible(show(token).encode()), WIDE)
    return f"{text:<{WIDE}} {probability:6.1%}"
