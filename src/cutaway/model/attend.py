"""Attention itself: which places a token may see, and the mixing of values by the likeness of query and key.

Two ways to one result: the explicit softmax, which has every value by name, and torch's fused kernel, which is faster.
It does not know projections, positions or blocks.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.ground.shapes import TokenBatch
from cutaway.model.cache import Cache
from cutaway.model.tap import Tap


@dataclass(frozen=True)
class Window:
    """Which places each token may see.

    visible_BTS: the rule in full, or None where `causal` says it: True, each token sees itself and all before it
    (as many places as tokens); False, every token sees every place (one new token, no padding).
    """

    causal: bool
    visible_BTS: Bool[Tensor, "B T S"] | None = None

    @property
    def first_mask(self) -> Bool[Tensor, "B S"] | None:
        """The rule of the first token: of the only one, mostly."""
        return None if self.visible_BTS is None else self.visible_BTS[:, 0]

    def full(self, t: int, s: int, device: torch.device) -> Bool[Tensor, "B T S"]:
        """The rule as a tensor, True where a token sees a place; B is 1 where all texts share it."""
        if self.visible_BTS is not None:
            return self.visible_BTS
        everything = torch.ones(1, t, s, dtype=torch.bool, device=device)
        return everything.tril() if self.causal else everything


class Place(NamedTuple):
    """Where the tokens of a pass stand: what each may see, and how far its queries and keys turn."""

    window: Window
    turn: tuple[Tensor, Tensor] | None  # None where positions are learned


def window(tokens: TokenBatch, cache: Cache | None) -> Window:
    """The places that these tokens may see: themselves, and real tokens before them (in the cache too).

    A padded place sees itself, and real tokens before it: its pattern is a real one (it sums to 1, no NaN), and
    no real token ever reads it.
    """
    new = tokens.ids.shape[1]
    before = 0 if cache is None else cache.length - new
    padded = tokens.padded if cache is None else cache.padded
    if not padded and (before == 0 or new == 1):
        return Window(causal=new > 1)
    slot_S = torch.arange(before + new, device=tokens.ids.device)
    own_T = slot_S[before:]
    mask_BS = tokens.mask if cache is None or cache.mask is None else cache.mask[:, : before + new]
    earlier_TS = slot_S[None] <= own_T[:, None]
    itself_TS = slot_S[None] == own_T[:, None]
    return Window(causal=False, visible_BTS=(earlier_TS & mask_BS[:, None].bool()) | itself_TS)


def attend_explicit(
    q_BTHK: Float[Tensor, "B T H K"],
    k_BSGK: Float[Tensor, "B S G K"],
    v_BSGK: Float[Tensor, "B S G K"],
    seen: Window,
    site: str,
    tap: Tap,
) -> Float[Tensor, "B T H K"]:
    """Scores, softmax, mix: every value passes the tap. The softmax is taken in float32 or better."""
    t, s = q_BTHK.shape[1], k_BSGK.shape[1]
    sharing = q_BTHK.shape[2] // k_BSGK.shape[2]  # heads per key/value head
    k_BHKS = k_BSGK.repeat_interleave(sharing, 2).permute(0, 2, 3, 1)
    v_BHSK = v_BSGK.repeat_interleave(sharing, 2).transpose(1, 2)
    hidden_BTS = torch.zeros(1, device=q_BTHK.device, dtype=q_BTHK.dtype).masked_fill(
        ~seen.full(t, s, q_BTHK.device), float("-inf")
    )
    scores_BHTS = tap(site + "scores", _scaled_product(q_BTHK.transpose(1, 2), k_BHKS, hidden_BTS))
    wide = torch.promote_types(scores_BHTS.dtype, torch.float32)
    pattern_BHTS = tap(site + "pattern", scores_BHTS.softmax(-1, dtype=wide).to(q_BTHK.dtype))
    return (pattern_BHTS @ v_BHSK).transpose(1, 2)


def _scaled_product(
    q_BHTK: Float[Tensor, "B H T K"], k_BHKS: Float[Tensor, "B H K S"], hidden_BTS: Float[Tensor, "#B T S"]
) -> Float[Tensor, "B H T S"]:
    """q @ k / sqrt(K) + hidden, in one tensor: of long texts each costs more to allocate than to compute."""
    b, h, t, width = q_BHTK.shape
    hidden_NTS = hidden_BTS[:, None].expand(b, h, t, -1).flatten(0, 1) if len(hidden_BTS) > 1 else hidden_BTS
    q_NTK, k_NKS = q_BHTK.reshape(b * h, t, width), k_BHKS.reshape(b * h, width, -1)
    return torch.baddbmm(hidden_NTS, q_NTK, k_NKS, alpha=width**-0.5).unflatten(0, (b, h))


def attend_fused(
    q_BTHK: Float[Tensor, "B T H K"],
    k_BSGK: Float[Tensor, "B S G K"],
    v_BSGK: Float[Tensor, "B S G K"],
    seen: Window,
) -> Float[Tensor, "B T H K"]:
    """The same result from torch's fused kernel, which never holds scores or pattern."""
    visible = None if seen.visible_BTS is None else seen.visible_BTS[:, None]
    z_BHTK = F.scaled_dot_product_attention(
        q_BTHK.transpose(1, 2),
        k_BSGK.transpose(1, 2),
        v_BSGK.transpose(1, 2),
        attn_mask=visible,
        is_causal=seen.causal,
        enable_gqa=q_BTHK.shape[2] != k_BSGK.shape[2],
    )
    return z_BHTK.transpose(1, 2)
