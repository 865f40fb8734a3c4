"""MXFP4 (OCP Microscaling Formats 1.0): 32 values of 4 bits with an exponent, read exactly, also as the 8 bits of Q8_0.

A value is one of 16, ±6 at most, times 2^(exponent - 127). Twice a value is an integer within ±12, so that codes of 8
bits with the scale 2^(exponent - 128) are the same numbers, wherever a float16 holds this scale. It does not know
files, nor in which order a format packs the codes.
"""

import torch
from torch import Tensor

DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # twice the value of each code
SMALLEST, LARGEST = -24, 15  # the exponents of float16


def doubled(packed: Tensor) -> Tensor:
    """Twice the values in bytes [...] of two codes each: int8 [..., 2], that of the low half first."""
    table = torch.tensor([(low, high) for high in DOUBLED for low in DOUBLED], dtype=torch.int8, device="cpu")
    return table.index_select(0, packed.flatten().int()).view(*packed.shape, 2)


def values(doubled: Tensor, exponents: Tensor) -> Tensor:
    """float32 [..., K] of doubled values int8 [..., K / 32, 32] and exponents uint8 [..., K / 32]."""
    return (doubled * _power(exponents.int() - 128)[..., None]).flatten(-2)


def groups(doubled: Tensor, exponents: Tensor) -> tuple[Tensor, Tensor]:
    """The same in Q8_0: codes int8 [..., K], scales float16 [..., K / 32].

    Values below float16's smallest scale are rounded to it; where one is too large, the scale is infinite.
    """
    wanted = exponents.int() - 128
    held = wanted.clamp(SMALLEST, LARGEST)
    scale = _power(held)
    if not torch.equal(wanted, held):
        codes = (doubled * _power(wanted - held)[..., None]).round()
        scale = torch.where(codes.abs().amax(-1) > 127, torch.inf, scale)
        doubled = codes.clamp(-127, 127).to(torch.int8)
    return doubled.flatten(-2), scale.half()


def _power(exponents: Tensor) -> Tensor:
    """2^exponent, float32."""
    return torch.ldexp(torch.ones_like(exponents, dtype=torch.float32), exponents)
