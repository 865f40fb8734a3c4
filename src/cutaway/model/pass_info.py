"""What every block of one pass reads beside the residual stream: masks, angles, and ALiBi's part of the scores.

It knows tokens, the cache's slots and positions; it does not know values.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.ground.config import DecoderConfig
from cutaway.ground.shapes import TokenBatch, longest_text
from cutaway.model.attention_mask import AttentionMask, attention_mask, mask_attended, positions_of
from cutaway.model.cache import Cache
from cutaway.model.positions import Rotary, alibi


class PassInfo(NamedTuple):
    """The same for all layers, or by what a layer says of itself."""

    masks: dict[int | None, AttentionMask]  # by a layer's window
    rotary: dict[int, tuple[Tensor, Tensor]]  # cos and sin, by the index of a layer's rotary positions in config.ropes
    alibi_BH1S: Tensor | None = None


def pass_info(
    config: DecoderConfig, rotary: Iterable[Rotary], tokens: TokenBatch, cache: Cache | None, dtype: torch.dtype
) -> PassInfo:
    """cache: it has admitted the tokens. Longrope chooses by the positions that the cache has room for, so that a text
    keeps its angles while it grows."""
    masks = {window: attention_mask(tokens, cache, window) for window in config.windows}
    longest = longest_text(tokens) if cache is None else cache.capacity
    angles = {i: one(tokens.positions, dtype, longest) for i, one in enumerate(rotary)}
    if config.alibi is None:
        return PassInfo(masks, angles)
    return PassInfo(masks, angles, alibi(config.alibi, positions_of(mask_attended(tokens, cache)), dtype))
