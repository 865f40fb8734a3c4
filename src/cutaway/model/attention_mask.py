"""Who attends to whom in one pass: the attention mask.

It knows tokens and the cache's slots; it does not know values.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
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


def attention_mask(tokens: TokenBatch, cache: Cache | None, window: int | None = None) -> AttentionMask:
    """These tokens attend to themselves and to real tokens before them, those in the cache too.

    Padding attends to itself and to real tokens before it, so that its pattern sums to 1; no real token attends to it.
    window: how many positions a token attends to, its own one too.
    """
    new = tokens.ids.shape[1]
    before = 0 if cache is None else cache.length - new
    padded = tokens.padded if cache is None else cache.padded
    within = window is None or before + new <= window
    if not padded and within and (before == 0 or new == 1):
        return AttentionMask(causal=new > 1)
    slot_S = torch.arange(before + new, device=tokens.ids.device)
    own_T = slot_S[before:]
    mask_BS = mask_attended(tokens, cache)
    earlier_TS = slot_S[None] <= own_T[:, None]
    itself_TS = slot_S[None] == own_T[:, None]
    visible_BTS = earlier_TS & mask_BS[:, None].bool()
    if window is not None and not within:
        position_BS = positions_of(mask_BS)
        visible_BTS = visible_BTS & (position_BS[:, None] > position_BS[:, before:, None] - window)
    return AttentionMask(causal=False, visible_BTS=visible_BTS | itself_TS)


def positions_of(mask_BS: Int[Tensor, "B S"]) -> Int[Tensor, "B S"]:
    """The position of each slot, of padding that of the token before it, at least 0."""
    return (mask_BS.cumsum(-1) - 1).clamp(min=0)


def mask_attended(tokens: TokenBatch, cache: Cache | None) -> Int[Tensor, "B S"]:
    """1 on real tokens, of the cache's slots so far or of these tokens alone."""
    return tokens.mask if cache is None or cache.mask is None else cache.mask[:, : cache.length]
