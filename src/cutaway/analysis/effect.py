"""What did an edit do? The next-token distributions after each text, without the edits and with them.

KL(before ‖ after) in nats says how far the two are apart over the whole vocabulary, the likeliest tokens say where.
Trust it as what it is: the effect at one place, the text's end; an edit may change what follows and not this. This
file knows logits; it does not know text, nor which edits there were.
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cutaway.analysis.compare import kl_divergence

Likeliest = tuple[tuple[int, float], ...]  # (id, probability), best first


@dataclass(frozen=True)
class Effect:
    """Of each text: KL(before ‖ after) in nats, and the likeliest next tokens of both."""

    kl: tuple[float, ...]
    before: tuple[Likeliest, ...]
    after: tuple[Likeliest, ...]

    def as_data(self) -> dict[str, Any]:
        """The effect as JSON."""
        return {"kl": list(self.kl), "before": [list(r) for r in self.before], "after": [list(r) for r in self.after]}


def effect(before_BV: Float[Tensor, "B V"], after_BV: Float[Tensor, "B V"], top: int = 5) -> Effect:
    """From the logits after each text's last token."""
    kl = tuple(kl_divergence(before_BV, after_BV).tolist())
    return Effect(kl, _likeliest(before_BV, top), _likeliest(after_BV, top))


def _likeliest(logits_BV: Tensor, count: int) -> tuple[Likeliest, ...]:
    top = logits_BV.double().softmax(-1).topk(min(count, logits_BV.shape[-1]))
    return tuple(tuple(zip(*row, strict=True)) for row in zip(top.indices.tolist(), top.values.tolist(), strict=True))
