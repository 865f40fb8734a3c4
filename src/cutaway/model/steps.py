"""The small steps between the products, where nobody asked for the values inside them: one call each, in plain torch.

`Steps` is what the decoder calls; whoever loads the weights may give it faster ones of the same meaning
(Decoder.use). Those that end in `_open` also give the values inside, where there is a fast way to: else None, and the
decoder takes its explicit form. It does not know the values' names, nor who watches.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks as _forward_hooks
from torch.nn.modules.module import _global_forward_pre_hooks as _forward_pre_hooks

from cutaway.model.attend import Place, Window, attend_fused
from cutaway.model.cache import Cache
from cutaway.model.counted import Counted
from cutaway.model.positions import rotate

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


class Normalizing(Counted):
    """The facts of a norm (decoder.py: Norm)."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    eps: float


class Steps:
    """Each step's meaning: the explicit form beside it in decoder.py, or in the file named.

    A step with a `room` (Tap.room) is to write there what is inside it; None: it cannot, or someone must see its parts.
    """

    def whole(self, run: Callable[[], Tensor], new: int) -> Tensor:
        """A whole pass over `new` places a text: run() and nothing else."""
        return run()

    def norm(self, x_BTD: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        """LayerNorm where there is a bias, else RMSNorm: Norm.explicit."""
        if bias is not None:
            return F.layer_norm(x_BTD, weight.shape, weight, bias, eps)
        return F.rms_norm(x_BTD, weight.shape, weight, eps)

    def norm_open(
        self, x_BTD: Tensor, weight: Tensor, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """scale, normalized, and the result."""
        return None

    def rotate(self, x_BTHK: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Each pair turned by its angle: positions.py."""
        return rotate(x_BTHK, turn)

    def attend(self, q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, seen: Window) -> Tensor:
        """Scores, softmax and mix in one: attend.py: attend_explicit."""
        return attend_fused(q_BTHK, k_BSGK, v_BSGK, seen)

    def attend_open(
        self, q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, seen: Window
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """scores, pattern, and z."""
        return None

    def attention(
        self, qkv_BTX: Tensor, heads: tuple[int, int, int], place: Place, cache: Cache | None, layer: int, room: Any
    ) -> Tensor | None:
        """All between the two products: split, turn, remember, attend → z [B, T, H, K]: Attention.explicit.

        heads: how many rows of heads q, k and v have, in qkv's order. room: for q, k, v, the turned q and k, z, the
        scores and the pattern.
        """
        if room is not None:
            return None
        q_BTHK, k_BTGK, v_BTGK = qkv_BTX.unflatten(-1, (sum(heads), -1)).split(heads, 2)
        if place.turn is not None:
            q_BTHK, k_BTGK = self.rotate(q_BTHK, place.turn), self.rotate(k_BTGK, place.turn)
        k_BSGK, v_BSGK = (k_BTGK, v_BTGK) if cache is None else cache.extend(layer, k_BTGK, v_BTGK)
        return self.attend(q_BTHK, k_BSGK, v_BSGK, place.window)

    def gate(self, gate_BTF: Tensor, linear_BTF: Tensor, activation: str) -> Tensor:
        """One half through the nonlinearity, times the other half."""
        return ACTIVATIONS[activation](gate_BTF) * linear_BTF

    def product(
        self,
        layer: nn.Module,
        x_BTD: Tensor,
        norm: Normalizing | None = None,
        activation: str | None = None,
        gated: bool = False,
        room: Any = None,
    ) -> Tensor | None:
        """A product with what stands before and after it: the norm, and the nonlinearity: MLP.explicit.

        room: for the norm's scale, normalized and out; what the nonlinearity takes, where gated each half; the result.
        """
        if room is not None or hooked(norm):
            return None
        out_BTF = layer(x_BTD if norm is None else self.norm(x_BTD, norm.weight, norm.bias, norm.eps))
        if activation is None:
            return out_BTF
        if not gated:
            return ACTIVATIONS[activation](out_BTF)
        gate_BTF, linear_BTF = out_BTF.chunk(2, -1)
        return self.gate(gate_BTF, linear_BTF, activation)

    def through(
        self, blocks: tuple[nn.Module, ...], resid_BTD: Tensor, place: Place, cache: Cache | None, room: Any
    ) -> Tensor | None:
        """All that these blocks do, one after another, for one new place of each text: decoder.py: Block.

        room: for the values inside each, block by block: Block.inside. None: there is no such step.
        """
        return None

    def add(self, resid_BTD: Tensor, layer: nn.Module, x_BTX: Tensor, room: Any) -> Tensor | None:
        """The stream and a product: Block.added. room: for the product, fourth, and the sum, sixth."""
        return None if room is not None else resid_BTD + layer(x_BTX)


def hooked(module: Any) -> bool:
    """Whether someone waits for this module to be called (torch's forward hooks, another forward): then it must be."""
    if module is None:
        return False
    own = module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__  # or whom they replaced
    return bool(own or _forward_hooks or _forward_pre_hooks)


plain = Steps()
