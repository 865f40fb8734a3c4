"""Who attends to whom in one pass: the attention mask, and what else is the same for every block.

It knows tokens and the cache's slots; it does not know values.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from cutaway.ground.shapes import TokenBatch
from cutaway.model.cache import Cache


@dataclass(frozen=True)
class AttentionMask:
    """Which positions each token attends to.

    visible_BTS: the rule in full, or None where `causal` says it: True, each token attends to itself and all before it
    (as many positions as tokens); False, every token attends to every position (one new token, no padding).
    """

    causal: bool
    visible_BTS: Bool[Tensor, "B T S"] | None = None

    def full(self, t: int, s: int, device: torch.device) -> Bool[Tensor, "B T S"]:
        """The rule as a tensor, True where a token attends to a position; B is 1 where all texts share it."""
        if self.visible_BTS is not None:
            return self.visible_BTS
        everything = torch.ones(1, t, s, dtype=torch.bool, device=device)
        return everything.tril() if self.causal else everything


class PassInfo(NamedTuple):
    """What every block of a pass reads beside the residual stream."""

    mask: AttentionMask
    rotary: tuple[Tensor, Tensor] | None  # cos and sin; None where positions are learned


def attention_mask(tokens: TokenBatch, cache: Cache | None) -> AttentionMask:
    """These tokens attend to themselves and to real tokens before them, those in the cache too.

    Padding attends to itself and to real tokens before it, so that its pattern sums to 1; no real token attends to it.
    """
    new = tokens.ids.shape[1]
    before = 0 if cache is None else cache.length - new
    padded = tokens.padded if cache is None else cache.padded
    if not padded and (before == 0 or new == 1):
        return AttentionMask(causal=new > 1)
    slot_S = torch.arange(before + new, device=tokens.ids.device)
    own_T = slot_S[before:]
    mask_BS = tokens.mask if cache is None or cache.mask is None else cache.mask[:, : before + new]
    earlier_TS = slot_S[None] <= own_T[:, None]
    itself_TS = slot_S[None] == own_T[:, None]
    return AttentionMask(causal=False, visible_BTS=(earlier_TS & mask_BS[:, None].bool()) | itself_TS)
