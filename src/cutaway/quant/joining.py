"""Which layers and norms the library can take together with what stands around them.

It does not know what is made of them.
"""

import torch
from torch import Tensor, nn

from cutaway.model.steps import Normalizing, hooked
from cutaway.quant import native
from cutaway.quant.linear import Int8Linear

EPILOGUES = {(None, False): "none", ("relu", False): "relu", ("silu", True): "gated-silu"}  # activation, gated


def joining(layer: nn.Module, x: Tensor) -> native.NativeLayer | None:
    """The layer as one that can compute what stands around it, too, if it is such a one.

    It is then not called as a module; so a hook, which is to see what the layer takes and gives alone, prevents it.
    """
    if not isinstance(layer, Int8Linear) or x.dtype is not torch.float32 or hooked(layer) or torch.is_grad_enabled():
        return None
    return layer.ready().native


def fits(norm: Normalizing | None, width: int) -> bool:
    """Whether the library can read a norm's weights, whoever put them there."""
    if norm is None:
        return True
    weight, bias, _ = parts(norm)
    vectors = (weight,) if bias is None else (weight, bias)
    return native.usable(*vectors) and all(vector.shape == (width,) for vector in vectors)


def parts(norm: Normalizing) -> native.NormParts:
    own = norm._parameters  # faster than by attribute
    weight = own.get("weight")
    return norm.weight if weight is None else weight, own.get("bias"), norm.eps
