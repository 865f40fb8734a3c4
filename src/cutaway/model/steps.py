"""The small steps between the products, where nobody asked for the values inside them: one call each, in plain torch.

`Steps` is what the decoder calls; whoever loads the weights may give it faster ones of the same meaning
(Decoder.use). Those that end in `_open` also give the values inside, where there is a fast way to: else None, and the
decoder takes its explicit form. It does not know the values' names, nor who watches.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.model.attend import Place, Window, attend_fused
from cutaway.model.cache import Cache
from cutaway.model.positions import rotate

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


class Steps:
    """Each step's meaning: the explicit form beside it in decoder.py, or in the file named."""

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
        self, qkv_BTX: Tensor, heads: tuple[int, int, int], place: Place, cache: Cache | None, layer: int
    ) -> Tensor:
        """All between the two products: split, turn, remember, attend → z [B, T, H, K]: Attention.explicit.

        heads: how many rows of heads q, k and v have, in qkv's order.
        """
        q_BTHK, k_BTGK, v_BTGK = qkv_BTX.unflatten(-1, (sum(heads), -1)).split(heads, 2)
        if place.turn is not None:
            q_BTHK, k_BTGK = self.rotate(q_BTHK, place.turn), self.rotate(k_BTGK, place.turn)
        k_BSGK, v_BSGK = (k_BTGK, v_BTGK) if cache is None else cache.extend(layer, k_BTGK, v_BTGK)
        return self.attend(q_BTHK, k_BSGK, v_BSGK, place.window)

    def attention_open(
        self, qkv_BTX: Tensor, heads: tuple[int, int, int], place: Place, cache: Cache | None, layer: int
    ) -> tuple[Tensor, ...] | None:
        """q, k, v, where places turn also the turned q and k, and z."""
        return None

    def gate(self, gate_BTF: Tensor, linear_BTF: Tensor, activation: str) -> Tensor:
        """One half through the nonlinearity, times the other half."""
        return ACTIVATIONS[activation](gate_BTF) * linear_BTF

    def gated(self, up: nn.Module, x_BTD: Tensor, activation: str) -> Tensor:
        """The up product, its first half through the nonlinearity, times its second half: MLP.forward."""
        gate_BTF, linear_BTF = up(x_BTD).chunk(2, -1)
        return self.gate(gate_BTF, linear_BTF, activation)


plain = Steps()
