"""The decoder's ops by the native library, for float32 on the CPU; everything else is computed by torch.

The same function serves a value that is watched, edited or fused with others, so none of these moves a bit. It does not
know names of values.
"""

from functools import partial

from torch import Tensor, nn

from cutaway.model.attention_mask import AttentionMask
from cutaway.model.ops import Clamp, Ops
from cutaway.quant import native
from cutaway.quant.linear import GroupedLinear, Int8Linear
from cutaway.quant.panels import ROWS


class NativeOps(Ops):
    """model/ops.py, natively; no gradients flow here, so what wants one is computed by torch."""

    def mean(self, x: Tensor) -> Tensor:
        return native.mean(x) if native.usable(x) else super().mean(x)

    def root_mean_square(self, x: Tensor, eps: float) -> Tensor:
        return native.root_mean_square(x, eps) if native.usable(x) else super().root_mean_square(x, eps)

    def norm(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centered: bool, inside: bool
    ) -> tuple[Tensor, ...] | None:
        vectors = (weight,) if bias is None else (weight, bias)
        taken = type(self) is NativeOps and native.usable(x, *vectors)  # a subclass may have another mean
        if not taken or any(vector.shape != x.shape[-1:] or not vector.is_contiguous() for vector in vectors):
            return None
        return native.norm(x, native.NormParts(weight, bias, eps, centered), inside)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        vectors = (weight,) if bias is None else (weight, bias)
        fits = native.usable(x, *vectors) and all(vector.is_contiguous() for vector in vectors)
        return native.float_product(x, weight, bias) if fits else super().product(x, weight, bias)

    def route(self, logits_BTX: Tensor, chosen: int, normalized: bool) -> Tensor:
        if not native.usable(logits_BTX) or not 0 < chosen <= logits_BTX.shape[-1]:
            return super().route(logits_BTX, chosen, normalized)
        return native.route(logits_BTX, chosen, normalized)

    def up(
        self, layer: nn.Module, activation: str, gated: bool, x_BTD: Tensor, clamp: Clamp, inside: bool
    ) -> tuple[Tensor, ...] | None:
        if not isinstance(layer, Int8Linear) or activation not in native.ACTIVATIONS or not native.usable(x_BTD):
            return None
        if clamp[0] == 0:  # which the library takes for none
            return None
        ready = layer.ready().native if type(self) is NativeOps else None  # a subclass may have another gate
        halves_share_a_panel = gated and isinstance(layer, GroupedLinear) and layer.out_features // 2 % ROWS
        if ready is None or halves_share_a_panel or not layer.called_as_written():
            return None
        return ready.activated(x_BTD, native.ACTIVATIONS[activation], gated, *clamp, inside)

    def rotate(self, x_BTHK: Tensor, cos_sin: tuple[Tensor, Tensor], interleaved: bool = False) -> Tensor:
        if not native.usable(x_BTHK, *cos_sin):
            return super().rotate(x_BTHK, cos_sin, interleaved)
        return native.rotate(x_BTHK, cos_sin, interleaved)

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

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        return native.softcap(x, cap) if native.usable(x) else super().softcap(x, cap)

    def softmax(self, scores_BHTS: Tensor, sinks_H: Tensor | None = None) -> Tensor:
        if not native.usable(scores_BHTS, *(() if sinks_H is None else (sinks_H,))):
            return super().softmax(scores_BHTS, sinks_H)
        return native.softmax(scores_BHTS, sinks_H)

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


OURS = {name: partial(_activate, name) for name in native.ACTIVATIONS if name in Ops.activation}
NativeOps.activation = {**Ops.activation, **OURS}
native_ops = NativeOps()
