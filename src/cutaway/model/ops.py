"""Ops: reductions and series, whose bits depend on the order of additions, and rotations, in plain torch.

The decoder calls them by name, watched or not; a backend may give it others of the same meaning (quant/ops.py). What is
elementwise stands in decoder.py. It does not know the values' names.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cutaway.model.attention_mask import AttentionMask

# cuDNN's attention is left out: it prepares itself anew for every length, 50 ms for every new token.
FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


Clamp = tuple[float | None, float]  # of a gated MLP: limit and α; no limit, no α


def wide(x: Tensor) -> torch.dtype:
    """What is computed in: float32, or x's own dtype where that has more bits."""
    return torch.promote_types(x.dtype, torch.float32)


class Ops:
    """B texts, T tokens, S positions attended to, H heads, G key/value heads (H is a multiple), K head width."""

    activation: ClassVar[Mapping[str, Callable[[Tensor], Tensor]]] = {
        "relu": F.relu,
        "relu2": lambda x: F.relu(x).square(),
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
    }

    def mean(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... 1"]:
        """Of the last axis."""
        return x.mean(-1, keepdim=True)

    def root_mean_square(self, x: Float[Tensor, "... D"], eps: float) -> Float[Tensor, "... 1"]:
        """The root of the last axis's mean square + eps."""
        return (x.square().mean(-1, keepdim=True) + eps).sqrt()

    def norm(
        self, x: Tensor, weight: Float[Tensor, "W"], bias: Tensor | None, eps: float, centered: bool, inside: bool
    ) -> tuple[Tensor, ...] | None:
        """(out,) of decoder.py: Norm, bit for bit, in one pass over memory, or with what lies inside (scale,
        normalized, out); None: not here."""
        return None

    def product(self, x: Float[Tensor, "... D"], weight: Float[Tensor, "N D"], bias: Tensor | None) -> Tensor:
        """x · weight, + bias [N], of a matrix in full precision: [..., N]."""
        return F.linear(x, weight, bias)

    def route(self, logits_BTX: Float[Tensor, "B T X"], chosen: int, normalized: bool) -> Float[Tensor, "B T X"]:
        """Each expert's score: of the chosen, whose logits are largest, their softmax, over all experts or, normalized,
        over the chosen; 0 of the others."""
        largest = logits_BTX.softmax(-1, dtype=wide(logits_BTX)).topk(chosen)
        kept = largest.values / largest.values.sum(-1, keepdim=True) if normalized else largest.values
        return torch.zeros_like(logits_BTX).scatter(-1, largest.indices, kept.to(logits_BTX.dtype))

    def up(
        self, layer: nn.Module, activation: str, gated: bool, x_BTD: Tensor, clamp: Clamp, inside: bool
    ) -> tuple[Tensor, ...] | None:
        """(post,) of decoder.py: MLP, bit for bit, in one product, or with what lies inside (pre, post) or (pre,
        pre_linear, post); None: not here."""
        return None

    def gate(
        self, activation: str, gate_BTF: Float[Tensor, "B T F"], linear_BTF: Float[Tensor, "B T F"]
    ) -> Float[Tensor, "B T F"]:
        """activation(gate) · linear."""
        return self.activation[activation](gate_BTF) * linear_BTF

    def gate_within(
        self, clamp: Clamp, activation: str, gate_BTF: Tensor, linear_BTF: Tensor
    ) -> Float[Tensor, "B T F"]:
        """With a limit activation(α · gate) / α · (1 + linear), the gate held below it and linear on both sides; else
        as `gate`."""
        limit, alpha = clamp
        if limit is not None:
            gate_BTF = alpha * gate_BTF.clamp(max=limit)
            linear_BTF = (1 + linear_BTF.clamp(-limit, limit)) / alpha
        return self.gate(activation, gate_BTF, linear_BTF)

    def rotate(
        self, x_BTHK: Float[Tensor, "B T H K"], cos_sin: tuple[Tensor, Tensor], interleaved: bool = False
    ) -> Float[Tensor, "B T H K"]:
        """Each pair (first half, second half) of the rotary components by its angle; the rest is unchanged.

        interleaved: a pair is two neighbours.
        """
        cos, sin = cos_sin
        pairs = cos.shape[-1]
        if interleaved:
            near, rest = x_BTHK.split((2 * pairs, x_BTHK.shape[-1] - 2 * pairs), -1)
            first, second = near.unflatten(-1, (-1, 2)).unbind(-1)
            rotated = torch.stack((first * cos - second * sin, second * cos + first * sin), -1).flatten(-2)
            return torch.cat((rotated, rest), -1)
        first, second, rest = x_BTHK.split((pairs, pairs, x_BTHK.shape[-1] - 2 * pairs), -1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), -1)

    def cos_sin(self, angle: Tensor) -> tuple[Tensor, Tensor]:
        """Of each angle, in radians."""
        return angle.cos(), angle.sin()

    def scores(
        self, q_BTHK: Float[Tensor, "B T H K"], k_BSGK: Float[Tensor, "B S G K"], mask: AttentionMask
    ) -> Float[Tensor, "B H T S"]:
        """q · k / √K, and -inf where a token does not attend."""
        b, t, h, width = q_BTHK.shape
        k_BHKS = k_BSGK.repeat_interleave(h // k_BSGK.shape[2], 2).permute(0, 2, 3, 1)
        visible_BTS = mask.full(t, k_BSGK.shape[1], q_BTHK.device)
        hidden_BTS = torch.zeros(1, dtype=q_BTHK.dtype, device=q_BTHK.device).masked_fill(~visible_BTS, -torch.inf)
        hidden_NTS = hidden_BTS[:, None].expand(b, h, t, -1).flatten(0, 1) if len(hidden_BTS) > 1 else hidden_BTS
        q_NTK, k_NKS = q_BTHK.transpose(1, 2).reshape(b * h, t, width), k_BHKS.reshape(b * h, width, -1)
        return torch.baddbmm(hidden_NTS, q_NTK, k_NKS, alpha=width**-0.5).unflatten(0, (b, h))

    def softcap(self, x: Float[Tensor, "..."], cap: float) -> Float[Tensor, "..."]:
        """cap · tanh(x / cap): about x where it is small, never beyond the cap; -inf, a masked score, stays."""
        return torch.where(x == -torch.inf, x, (x / cap).tanh() * cap)

    def softmax(
        self, scores_BHTS: Float[Tensor, "B H T S"], sinks_H: Float[Tensor, "H"] | None = None
    ) -> Float[Tensor, "B H T S"]:
        """Over S, in float32 or better. sinks: each head's score of one more position, whose own share is dropped."""
        if sinks_H is not None:
            sinks_BHT1 = sinks_H[:, None, None].expand(*scores_BHTS.shape[:3], 1)
            # the sink stands first: positions that are hidden, behind a text, then move none of its bits
            return self.softmax(torch.cat((sinks_BHT1, scores_BHTS), -1))[..., 1:].contiguous()
        return scores_BHTS.softmax(-1, dtype=wide(scores_BHTS)).to(scores_BHTS.dtype)

    def mix(self, pattern_BHTS: Float[Tensor, "B H T S"], v_BSGK: Float[Tensor, "B S G K"]) -> Float[Tensor, "B T H K"]:
        """Each head's sum of values, weighted by its pattern."""
        v_BSHK = v_BSGK.repeat_interleave(pattern_BHTS.shape[1] // v_BSGK.shape[2], 2)
        return (pattern_BHTS @ v_BSHK.transpose(1, 2)).transpose(1, 2)

    def attend(
        self,
        q_BTHK: Float[Tensor, "B T H K"],
        k_BSGK: Float[Tensor, "B S G K"],
        v_BSGK: Float[Tensor, "B S G K"],
        mask: AttentionMask,
    ) -> Float[Tensor, "B T H K"]:
        """mix(softmax(scores), v), within rounding, by torch's fused kernel, which never holds scores or pattern."""
        with sdpa_kernel(FUSED) if q_BTHK.is_cuda else nullcontext():
            z_BHTK = F.scaled_dot_product_attention(
                q_BTHK.transpose(1, 2),
                k_BSGK.transpose(1, 2),
                v_BSGK.transpose(1, 2),
                attn_mask=None if mask.visible_BTS is None else mask.visible_BTS[:, None],
                is_causal=mask.causal,
                enable_gqa=q_BTHK.shape[2] != k_BSGK.shape[2],
            )
        return z_BHTK.transpose(1, 2)

    def attend_recorded(
        self,
        q_BTHK: Float[Tensor, "B T H K"],
        k_BSGK: Float[Tensor, "B S G K"],
        v_BSGK: Float[Tensor, "B S G K"],
        mask: AttentionMask,
    ) -> tuple[Float[Tensor, "B H T S"], Float[Tensor, "B H T S"], Float[Tensor, "B T H K"]]:
        """Scores, pattern and z, bit for bit what the three functions above give one after the other."""
        scores_BHTS = self.scores(q_BTHK, k_BSGK, mask)
        pattern_BHTS = self.softmax(scores_BHTS)
        return scores_BHTS, pattern_BHTS, self.mix(pattern_BHTS, v_BSGK)


torch_ops = Ops()
