"""What did an edit do? The next-token distributions after each text, without the edits and with them.

KL(before ‖ after) in nats measures the difference over the whole vocabulary, the most probable tokens locate it. Trust
it for one position, the text's end; an edit may change what follows and not this. This file knows logits; it does not
know text, nor the edits.
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cutaway.analysis.compare import kl_divergence, most_probable
from cutaway.ground.display import Displayed, brief

NextTokens = tuple[tuple[int, float], ...]  # (id, probability), best first


@dataclass(frozen=True, repr=False)
class Effect(Displayed):
    """Of each text: KL(before ‖ after) in nats, and the most probable next tokens of both."""

    kl: tuple[float, ...]
    before: tuple[NextTokens, ...]
    after: tuple[NextTokens, ...]

    __repr__ = brief

    def as_data(self) -> dict[str, Any]:
        """The effect as JSON."""
        return {"kl": list(self.kl), "before": [list(r) for r in self.before], "after": [list(r) for r in self.after]}


def effect(before_BV: Float[Tensor, "B V"], after_BV: Float[Tensor, "B V"], top: int = 5) -> Effect:
    """From the logits after each text's last token."""
    kl = tuple(kl_divergence(before_BV, after_BV).tolist())
    return Effect(kl, *(tuple(most_probable(logits_V, top) for logits_V in both) for both in (before_BV, after_BV)))
