"""The decoder's ops by the native library, for float32 on the CPU; everything else is computed by torch.

The same function serves a value that is watched, edited or fused with others, so none of these moves a bit. It does not
know names of values.
"""

import math
from functools import partial

from torch import Tensor, nn

from cutaway.model.attention_mask import AttentionMask
from cutaway.model.ops import Ops
from cutaway.quant import native
from cutaway.quant.linear import GroupedLinear, Int8Linear
from cutaway.quant.panels import ROWS


class NativeOps(Ops):
    """model/ops.py, natively; no gradients flow here, so what wants one is computed by torch."""

    def mean(self, x: Tensor) -> Tensor:
        return native.mean(x) if native.usable(x) else super().mean(x)

    def root_mean_square(self, x: Tensor, eps: float) -> Tensor:
        return native.root_mean_square(x, eps) if native.usable(x) else super().root_mean_square(x, eps)

    def norm(self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centered: bool) -> Tensor | None:
        vectors = (weight,) if bias is None else (weight, bias)
        taken = type(self) is NativeOps  # a subclass may have another mean
        taken = taken and centered is (bias is not None) and native.usable(x, *vectors)
        if not taken or any(vector.shape != x.shape[-1:] or not vector.is_contiguous() for vector in vectors):
            return None
        return native.norm(x, weight, bias, eps)

    def up(self, layer: nn.Module, activation: str, gated: bool, x_BTD: Tensor) -> Tensor | None:
        if not isinstance(layer, Int8Linear) or activation not in native.ACTIVATIONS or not native.usable(x_BTD):
            return None
        ready = layer.ready().native if type(self) is NativeOps else None  # a subclass may have another gate
        halves_share_a_panel = gated and isinstance(layer, GroupedLinear) and layer.out_features // 2 % ROWS
        if ready is None or halves_share_a_panel or not layer.called_as_written():
            return None
        return ready(x_BTD, native.ACTIVATIONS[activation], gated)

    def rotate(self, x_BTHK: Tensor, cos_sin: tuple[Tensor, Tensor], interleaved: bool = False) -> Tensor:
        if interleaved or not native.usable(x_BTHK, *cos_sin):
            return super().rotate(x_BTHK, cos_sin, interleaved)
        return native.rotate(x_BTHK, cos_sin)

    def cos_sin(self, angle: Tensor) -> tuple[Tensor, Tensor]:
        return native.cos_sin(angle) if native.usable(angle) else super().cos_sin(angle)

    def gate(self, activation: str, gate_BTF: Tensor, linear_BTF: Tensor) -> Tensor:
        known = activation in native.ACTIVATIONS and gate_BTF.shape == linear_BTF.shape
        if not known or not native.usable(gate_BTF, linear_BTF):
            return super().gate(activation, gate_BTF, linear_BTF)
        return native.activate(activation, gate_BTF, linear_BTF)

    def scores(self, q_BTHK: Tensor, k_BSGK: Tensor, mask: AttentionMask) -> Tensor:
        if not native.usable(q_BTHK, k_BSGK):
            return super().scores(q_BTHK, k_BSGK, mask)
        return native.scores(q_BTHK, k_BSGK, mask.causal, mask.visible_BTS)

    def softmax(self, scores_BHTS: Tensor) -> Tensor:
        return native.softmax(scores_BHTS) if native.usable(scores_BHTS) else super().softmax(scores_BHTS)

    def mix(self, pattern_BHTS: Tensor, v_BSGK: Tensor) -> Tensor:
        if not native.usable(pattern_BHTS, v_BSGK):
            return super().mix(pattern_BHTS, v_BSGK)
        return native.mix(pattern_BHTS, v_BSGK)

    def attend(self, q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, mask: AttentionMask) -> Tensor:
        if not native.usable(q_BTHK, k_BSGK, v_BSGK):
            return super().attend(q_BTHK, k_BSGK, v_BSGK, mask)
        return native.attend(q_BTHK, k_BSGK, v_BSGK, mask.causal, mask.visible_BTS)

    def attend_recorded(
        self, q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, mask: AttentionMask
    ) -> tuple[Tensor, Tensor, Tensor]:
        if type(self) is not NativeOps or not native.usable(q_BTHK, k_BSGK, v_BSGK):  # a subclass may have another mix
            return super().attend_recorded(q_BTHK, k_BSGK, v_BSGK, mask)
        return native.attend_recorded(q_BTHK, k_BSGK, v_BSGK, mask.causal, mask.visible_BTS)


def _activate(name: str, x: Tensor) -> Tensor:
    return native.activate(name, x) if native.usable(x) else Ops.activation[name](x)


def _gelu(x: Tensor) -> Tensor:
    """By the formula: F.gelu gives other bits at the end of a vector than within it, torch.erf the same."""
    if not native.usable(x):
        return Ops.activation["gelu"](x)
    return (x * math.sqrt(0.5)).erf_().add_(1).mul_(x).mul_(0.5)


OURS = {name: partial(_activate, name) for name in ("relu", "silu", "gelu_tanh")}
NativeOps.activation = {**Ops.activation, **OURS, "gelu": _gelu}
native_ops = NativeOps()
