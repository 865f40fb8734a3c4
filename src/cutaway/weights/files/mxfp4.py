"""MXFP4 (OCP Microscaling Formats 1.0): 32 values of 4 bits with an exponent, read exactly, also as the 8 bits of Q8_0.

A value is one of 16, ±6 at most, times 2^(exponent - 127). Twice a value is an integer within ±12, so that codes of 8
bits with the scale 2^(exponent - 128) are the same numbers, wherever a float16 holds this scale. It does not know
files, nor in which order a format packs the codes.
"""

import torch
from torch import Tensor

DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # twice the value of each code
SMALLEST, LARGEST = -24, 15  # the exponents of float16


def values(codes: Tensor, exponents: Tensor) -> Tensor:
    """float32 [..., K] of codes uint8 [..., K / 32, 32] and exponents uint8 [..., K / 32]."""
    return torch.ldexp(_doubled(codes).float(), exponents[..., None].int() - 128).flatten(-2)


def groups(codes: Tensor, exponents: Tensor) -> tuple[Tensor, Tensor]:
    """The same in Q8_0: codes int8 [..., K], scales float16 [..., K / 32].

    Values below float16's smallest scale are rounded to it; where one is too large, the scale is infinite.
    """
    wanted = exponents.int() - 128
    held = wanted.clamp(SMALLEST, LARGEST)
    codes_8 = torch.ldexp(_doubled(codes).float(), (wanted - held)[..., None]).round()
    scale = torch.ldexp(torch.ones_like(held, dtype=torch.float32), held)
    scale = torch.where(codes_8.abs().amax(-1) > 127, torch.inf, scale)
    return codes_8.clamp(-127, 127).to(torch.int8).flatten(-2), scale.half()


def _doubled(codes: Tensor) -> Tensor:
    return torch.tensor(DOUBLED, dtype=torch.int8, device="cpu")[codes.long()]
