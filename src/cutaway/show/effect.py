"""The effect of edits as text: the likeliest next tokens before and after, side by side.

It knows an Effect and how ids look as text; it does not know which edits there were.
"""

from collections.abc import Callable

from cutaway.analysis.effect import Effect
from cutaway.text.table import visible

WIDE = 14  # columns of a token's text


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
    text = visible(show(token).encode())
    text = text if len(text) <= WIDE else text[: WIDE - 1] + "…"
    return f"{text:<{WIDE}} {probability:6.1%}"
