"""The decoder's small steps by the native library, for float32 on the CPU; anything else takes the plain way.

It does not know blocks or names of values: it answers to the same calls as model/steps.py.
"""

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cutaway.model.attend import Place, Window
from cutaway.model.cache import Cache
from cutaway.model.decoder import Decoder
from cutaway.model.steps import Steps
from cutaway.quant import kernels
from cutaway.quant.linear import Int8Linear


class NativeSteps(Steps):
    """The same values within float32 rounding (tested), in one pass over memory each. No gradients flow here.

    together: whether the products are the library's own, so that its threads are kept together over a pass.
    """

    def __init__(self, together: bool = False) -> None:
        self.together = together
        self.shapes: WeakKeyDictionary[Cache, kernels.StepShape] = WeakKeyDictionary()

    def whole(self, run: Callable[[], Tensor], new: int) -> Tensor:
        return kernels.together(run) if new == 1 and self.together else run()

    def norm(self, x_BTD: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        if bias is None:
            return kernels.rms_norm(x_BTD, weight, eps)
        return kernels.layer_norm(x_BTD, weight, bias, eps)

    def norm_open(
        self, x_BTD: Tensor, weight: Tensor, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        if x_BTD.dtype != torch.float32 or _differentiable(x_BTD):
            return None
        return kernels.norm_open(x_BTD, weight, bias, eps)

    def rotate(self, x_BTHK: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        return super().rotate(x_BTHK, turn) if _differentiable(x_BTHK) else kernels.rotate(x_BTHK, turn)

    def attend(self, q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, seen: Window) -> Tensor:
        if q_BTHK.shape[1] > 1:
            if not kernels.usable(q_BTHK, k_BSGK, v_BSGK):
                return super().attend(q_BTHK, k_BSGK, v_BSGK, seen)
            return kernels.attend_many(q_BTHK, k_BSGK, v_BSGK, seen.causal, seen.visible_BTS)
        if _differentiable(q_BTHK):
            return super().attend(q_BTHK, k_BSGK, v_BSGK, seen)
        mask_BS = None if seen.visible_BTS is None else seen.visible_BTS[:, 0]
        z_BHK = kernels.attend_one(q_BTHK[:, 0], k_BSGK.transpose(1, 2), v_BSGK.transpose(1, 2), mask_BS)
        return z_BHK[:, None]

    def attend_open(
        self, q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, seen: Window
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        if not kernels.usable(q_BTHK, k_BSGK, v_BSGK):
            return None
        return kernels.attend_open(q_BTHK, k_BSGK, v_BSGK, seen.causal, seen.visible_BTS)

    def attention(
        self, qkv_BTX: Tensor, heads: tuple[int, int, int], place: Place, cache: Cache | None, layer: int
    ) -> Tensor:
        z_BTHK = self._step(qkv_BTX, heads, place, cache, layer)
        return super().attention(qkv_BTX, heads, place, cache, layer) if z_BTHK is None else z_BTHK

    def attention_open(
        self, qkv_BTX: Tensor, heads: tuple[int, int, int], place: Place, cache: Cache | None, layer: int
    ) -> tuple[Tensor, ...] | None:
        q_BTHK, k_BTGK, v_BTGK = qkv_BTX.view(*qkv_BTX.shape[:2], sum(heads), -1).split(heads, 2)
        turned = () if place.turn is None else (qkv_BTX.new_empty(q_BTHK.shape), qkv_BTX.new_empty(k_BTGK.shape))
        z_BTHK = self._step(qkv_BTX, heads, place, cache, layer, turned)
        return None if z_BTHK is None else (q_BTHK, k_BTGK, v_BTGK, *turned, z_BTHK)

    def _step(
        self,
        qkv_BTX: Tensor,
        heads: tuple[int, int, int],
        place: Place,
        cache: Cache | None,
        layer: int,
        turned: tuple[Tensor, Tensor] | tuple[()] = (),
    ) -> Tensor | None:
        """One new place of each text, after the prompt: z [B, 1, H, K], and what has turned in `turned`. Else None."""
        keys_BSGK, values_BSGK = (None, None) if cache is None else cache.slots(layer)
        one_new_place = qkv_BTX.shape[1] == 1 and qkv_BTX.dtype == torch.float32 and not _differentiable(qkv_BTX)
        if cache is None or keys_BSGK is None or values_BSGK is None or not one_new_place:
            return None
        shape = self.shapes.get(cache)
        if shape is None:
            pairs = 0 if place.turn is None else place.turn[0].shape[-1]
            shape = self.shapes[cache] = kernels.step_shape(keys_BSGK, heads[0], pairs)
        visible = place.window.visible_BTS
        mask_BS = None if visible is None else visible[:, 0]
        return kernels.attention_step(
            shape, qkv_BTX, place.turn, keys_BSGK, values_BSGK, cache.length, mask_BS, turned or None
        )

    def gate(self, gate_BTF: Tensor, linear_BTF: Tensor, activation: str) -> Tensor:
        if activation == "silu":
            return kernels.silu_mul(gate_BTF, linear_BTF)
        return super().gate(gate_BTF, linear_BTF, activation)

    def gated(self, up: nn.Module, x_BTD: Tensor, activation: str) -> Tensor:
        if activation == "silu" and isinstance(up, Int8Linear):
            return up(x_BTD, "gated-silu")
        return super().gated(up, x_BTD, activation)


def use_native_steps(decoder: Decoder) -> None:
    """Give the decoder the native steps where the library is there and the weights are on the CPU."""
    if kernels.available and decoder.embed.token.weight.is_cpu:
        decoder.use(NativeSteps(together=_is_native(decoder)))


def _is_native(decoder: Decoder) -> bool:
    """Whether next to all weights are multiplied by the library, not by torch."""
    layers = [module for module in decoder.modules() if isinstance(module, Int8Linear | nn.Linear)]
    sizes = [(_multiplies(module), module.in_features * module.out_features) for module in layers]
    return sum(size for native, size in sizes if native) > 0.95 * sum(size for _, size in sizes)


def _multiplies(layer: nn.Module) -> bool:
    """What Int8Linear will choose; asking for its engine would read all codes, which a mapped file has not done yet."""
    return isinstance(layer, Int8Linear) and layer.mode != "int8-weight" and layer.in_features <= kernels.MAX_WIDTH


def _differentiable(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled()
