"""Next tokens with their probabilities, as data; and the effect of edits on them as text, before and after.

It knows an Effect and the text of ids; it does not know which edits there were.
"""

from collections.abc import Callable, Iterable
from typing import Any

from cutaway.analysis.effect import Effect
from cutaway.lm import LM
from cutaway.text.pieces import Tokens
from cutaway.text.table import cut, visible

WIDE = 14  # columns of a token's text


def named(lm: LM, likeliest: Iterable[tuple[int, float]]) -> list[dict[str, Any]]:
    """Tokens and their probabilities, with each token's text."""
    return [{"id": i, "text": lm.tokenizer.pieces([i])[0].visible, "prob": prob} for i, prob in likeliest]


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
