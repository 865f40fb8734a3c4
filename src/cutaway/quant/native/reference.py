"""The small steps of a decoder in plain torch: the readable reference of the native ones, and their substitute.

It does not know the native library. B texts, T positions, S places, H heads, G key/value heads, K head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.model.positions import rotate as rotate  # the same formula, from the decoder itself


def rms_norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · w over the last axis."""
    return F.rms_norm(x, w.shape, w, eps)


def layer_norm(x: Tensor, w: Tensor, b: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) · w + b over the last axis."""
    return F.layer_norm(x, w.shape, w, b, eps)


def norm_open(x: Tensor, w: Tensor, b: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Either norm (RMSNorm without b) with every step of it → scale [..., 1], x normalized, and the result."""
    centered = x if b is None else x - x.mean(-1, keepdim=True)
    scale = (centered.square().mean(-1, keepdim=True) + eps).sqrt()
    normalized = centered / scale
    return scale, normalized, normalized * w if b is None else normalized * w + b


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up."""
    return F.silu(gate) * up


def attend_one(q_BHK: Tensor, keys_BGSK: Tensor, values_BGSK: Tensor, mask_BS: Tensor | None = None) -> Tensor:
    """One new token's attention to all places [B, G, S, K] (mask 1 where it may look) → z [B, H, K]."""
    sharing = q_BHK.shape[1] // keys_BGSK.shape[1]
    k_BHSK = keys_BGSK.repeat_interleave(sharing, 1)
    v_BHSK = values_BGSK.repeat_interleave(sharing, 1)
    scores_BHS = (q_BHK[:, :, None] @ k_BHSK.mT)[:, :, 0] * q_BHK.shape[-1] ** -0.5
    if mask_BS is not None:
        hidden_BS = mask_BS == 0
        scores_BHS = scores_BHS.masked_fill(hidden_BS[:, None], -torch.inf)
        v_BHSK = v_BHSK.masked_fill(hidden_BS[:, None, :, None], 0.0)  # 0 · NaN would be NaN
    return (scores_BHS.softmax(-1)[:, :, None] @ v_BHSK)[:, :, 0]


def attend_open(
    q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, causal: bool, mask_BTS: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention with every step of it → scores and pattern [B, H, T, S], z [B, T, H, K]."""
    sharing = q_BTHK.shape[2] // k_BSGK.shape[2]
    k_BHKS = k_BSGK.repeat_interleave(sharing, 2).permute(0, 2, 3, 1)
    v_BHSK = v_BSGK.repeat_interleave(sharing, 2).transpose(1, 2)
    scores_BHTS = q_BTHK.transpose(1, 2) @ k_BHKS * q_BTHK.shape[-1] ** -0.5
    visible_BTS = torch.ones_like(scores_BHTS[:1, 0], dtype=torch.bool) if mask_BTS is None else mask_BTS
    visible_BTS = visible_BTS.tril() if causal else visible_BTS
    scores_BHTS = scores_BHTS.masked_fill(~visible_BTS[:, None], -torch.inf)
    pattern_BHTS = scores_BHTS.softmax(-1)
    return scores_BHTS, pattern_BHTS, (pattern_BHTS @ v_BHSK).transpose(1, 2)
