"""What did an edit do? The next-token distributions after each text, without the edits and with them.

KL(before ‖ after) in nats measures the difference over the whole vocabulary, the most probable tokens locate it. Trust
it for one position, the text's end; an edit may change what follows and not this. This file knows logits; it does not
know text, nor the edits.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.analysis.compare import kl_divergence, most_probable
from cutaway.ground.display import brief
from cutaway.ground.errors import NotFinite

NextTokens = tuple[tuple[int, float], ...]  # (id, probability), best first


@dataclass(frozen=True, repr=False)
class Effect:
    """Of each text: KL(before ‖ after) in nats, and the most probable next tokens of both."""

    kl: tuple[float, ...]
    before: tuple[NextTokens, ...]
    after: tuple[NextTokens, ...]
    change: tuple[NextTokens, ...]  # (id, probability after - before) of the tokens of either, the largest rise first

    __repr__ = brief

    def as_data(self) -> dict[str, Any]:
        """The effect as JSON."""
        return {"kl": list(self.kl), "before": [list(r) for r in self.before], "after": [list(r) for r in self.after]}


def effect(before_BV: Float[Tensor, "B V"], after_BV: Float[Tensor, "B V"], top: int = 5) -> Effect:
    """From the logits after each text's last token. Raises NotFinite where one is NaN or infinite."""
    for logits_BV, when in ((before_BV, "without the edits"), (after_BV, "with the edits")):
        _require_finite(logits_BV, when)
    kl = tuple(kl_divergence(before_BV, after_BV).tolist())
    before, after = (tuple(most_probable(logits_V, top) for logits_V in both) for both in (before_BV, after_BV))
    probs = [logits_BV.double().softmax(-1) for logits_BV in (before_BV, after_BV)]
    changes = []
    for row, likeliest in enumerate(zip(before, after, strict=True)):
        ids = dict.fromkeys(id for side in likeliest for id, _ in side)
        rises = [(id, float(probs[1][row, id] - probs[0][row, id])) for id in ids]
        changes.append(tuple(sorted(rises, key=lambda rise: -rise[1])))
    return Effect(kl, before, after, tuple(changes))


def _require_finite(logits_BV: Tensor, when: str) -> None:
    finite_B = torch.isfinite(logits_BV).all(-1)
    if not finite_B.all():
        row = int((~finite_B).nonzero()[0, 0])
        which = f" of text {row + 1}" if len(finite_B) > 1 else ""
        do = "look for NaN or infinity in the edits' values" if "with the" in when else "check the model's weights"
        raise NotFinite(f"next-token logits{which} that are NaN or infinite {when}", "finite numbers", do)
