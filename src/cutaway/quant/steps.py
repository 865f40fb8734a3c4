"""The decoder's small steps by the native library, for float32 on the CPU; anything else takes the plain way.

It does not know names of values: it answers to the same calls as model/steps.py.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.model.attend import Place, Window
from cutaway.model.cache import Cache
from cutaway.model.decoder import Decoder
from cutaway.model.steps import Normalizing, Steps, hooked
from cutaway.quant import native
from cutaway.quant.block import BlockSteps
from cutaway.quant.joining import EPILOGUES, fits, joining, parts
from cutaway.quant.linear import Int8Linear


class NativeSteps(Steps):
    """The same values within float32 rounding (tested), in one pass over memory each. No gradients flow here.

    together: whether the products are the library's own, so that its threads are kept together over a pass.
    """

    def __init__(self, together: bool = False) -> None:
        self.together = together
        self.blocks = BlockSteps()

    def whole(self, run: Callable[[], Tensor], new: int) -> Tensor:
        return native.together(run) if new == 1 and self.together else run()

    def norm(self, x_BTD: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        if bias is None:
            return native.rms_norm(x_BTD, weight, eps)
        return native.layer_norm(x_BTD, weight, bias, eps)

    def norm_open(
        self, x_BTD: Tensor, weight: Tensor, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        if x_BTD.dtype != torch.float32 or _differentiable(x_BTD):
            return None
        return native.norm_open(x_BTD, weight, bias, eps)

    def rotate(self, x_BTHK: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        return super().rotate(x_BTHK, turn) if _differentiable(x_BTHK) else native.rotate(x_BTHK, turn)

    def attend(self, q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, seen: Window) -> Tensor:
        if q_BTHK.shape[1] > 1:
            if not native.usable(q_BTHK, k_BSGK, v_BSGK):
                return super().attend(q_BTHK, k_BSGK, v_BSGK, seen)
            return native.attend_many(q_BTHK, k_BSGK, v_BSGK, seen.causal, seen.visible_BTS)
        if _differentiable(q_BTHK):
            return super().attend(q_BTHK, k_BSGK, v_BSGK, seen)
        keys_BGSK, values_BGSK = k_BSGK.transpose(1, 2), v_BSGK.transpose(1, 2)
        z_BHK = native.attend_one(q_BTHK[:, 0], keys_BGSK, values_BGSK, seen.first_mask)
        return z_BHK[:, None]

    def attend_open(
        self, q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, seen: Window
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        if not native.usable(q_BTHK, k_BSGK, v_BSGK):
            return None
        return native.attend_open(q_BTHK, k_BSGK, v_BSGK, seen.causal, seen.visible_BTS)

    def attention(
        self, qkv_BTX: Tensor, heads: tuple[int, int, int], place: Place, cache: Cache | None, layer: int, room: Any
    ) -> Tensor | None:
        """One call for one new place of each text after the prompt."""
        softmax = room is not None and (room.values[6] is not None or room.values[7] is not None)
        if qkv_BTX.shape[1] > 1 or cache is None or softmax:
            return self._attention_of_many(qkv_BTX, heads, place, cache, layer, room)
        keys_BSGK, values_BSGK = cache.slots(layer)
        if keys_BSGK is None or values_BSGK is None or not native.usable(qkv_BTX):
            return super().attention(qkv_BTX, heads, place, cache, layer, room)
        if qkv_BTX.shape[-1] != sum(heads) * keys_BSGK.shape[-1]:  # which the plain way says
            return super().attention(qkv_BTX, heads, place, cache, layer, room)
        return native.attention_step(
            self.blocks.shape(cache, keys_BSGK, heads[0], place), qkv_BTX, place.turn, keys_BSGK, values_BSGK,
            cache.length, place.window.first_mask, room,
        )  # fmt: skip

    def _attention_of_many(
        self, qkv_BTX: Tensor, heads: tuple[int, int, int], place: Place, cache: Cache | None, layer: int, room: Any
    ) -> Tensor | None:
        """The same for any number of places; what is wanted is written where it is kept."""
        if room is None or not native.usable(qkv_BTX):
            return super().attention(qkv_BTX, heads, place, cache, layer, room)
        qkv = qkv_BTX.unflatten(-1, (sum(heads), -1)).split(heads, 2)
        for slot, value in enumerate(qkv):
            if (kept := room.of(slot, value.shape)) is not None:
                kept.copy_(value)
        q_BTHK, k_BTGK, v_BTGK = qkv
        if place.turn is not None:
            q_BTHK, k_BTGK = (
                native.rotate(value, place.turn, room.of(slot, value.shape))
                for slot, value in ((3, q_BTHK), (4, k_BTGK))
            )
        k_BSGK, v_BSGK = (k_BTGK, v_BTGK) if cache is None else cache.extend(layer, k_BTGK, v_BTGK)
        b, t, h, _ = q_BTHK.shape
        square = b, h, t, k_BSGK.shape[1]
        outs = room.of(6, square), room.of(7, square), room.of(5, q_BTHK.shape)
        return native.attend_many(q_BTHK, k_BSGK, v_BSGK, place.window.causal, place.window.visible_BTS, outs)

    def through(
        self, blocks: tuple[nn.Module, ...], resid_BTD: Tensor, place: Place, cache: Cache | None, room: Any
    ) -> Tensor | None:
        """One call for one new place of each text after the prompt."""
        return None if cache is None else self.blocks.run(blocks, resid_BTD, place, cache, room)

    def gate(self, gate_BTF: Tensor, linear_BTF: Tensor, activation: str) -> Tensor:
        if activation == "silu":
            return native.silu_mul(gate_BTF, linear_BTF)
        return super().gate(gate_BTF, linear_BTF, activation)

    def product(
        self,
        layer: nn.Module,
        x_BTD: Tensor,
        norm: Normalizing | None = None,
        activation: str | None = None,
        gated: bool = False,
        room: Any = None,
    ) -> Tensor | None:
        epilogue, native = EPILOGUES.get((activation, gated)), joining(layer, x_BTD)
        if epilogue is None or native is None or hooked(norm) or not fits(norm, x_BTD.shape[-1]):
            return super().product(layer, x_BTD, norm, activation, gated, room)
        return native(x_BTD, epilogue, None, None if norm is None else parts(norm), room)

    def add(self, resid_BTD: Tensor, layer: nn.Module, x_BTX: Tensor, room: Any) -> Tensor | None:
        native = joining(layer, x_BTX)
        if native is None or resid_BTD.dtype is not torch.float32:
            return super().add(resid_BTD, layer, x_BTX, room)
        return native(x_BTX, "residual", resid_BTD, None, room)


def use_native_steps(decoder: Decoder) -> None:
    """Give the decoder the native steps where the library is there and the weights are on the CPU."""
    if native.available and decoder.embed.token.weight.is_cpu:
        decoder.use(NativeSteps(together=_is_native(decoder)))


def _is_native(decoder: Decoder) -> bool:
    """Whether next to all weights are multiplied by the library, not by torch."""
    layers = [module for module in decoder.modules() if isinstance(module, Int8Linear | nn.Linear)]
    sizes = [(_multiplies(module), module.in_features * module.out_features) for module in layers]
    return sum(size for native, size in sizes if native) > 0.95 * sum(size for _, size in sizes)


def _multiplies(layer: nn.Module) -> bool:
    return isinstance(layer, Int8Linear) and layer.native


def _differentiable(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled()
