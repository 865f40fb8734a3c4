"""Rotary positions, the angle of each pair of a head's components at a position; and ALiBi, positions as scores.

It knows frequencies, angles and slopes; it does not know attention. Learned positions are a table in decoder.py.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cutaway.ground.config import AlibiConfig, RopeConfig
from cutaway.model.ops import Ops, torch_ops


class Rotary(nn.Module):
    """Angles of rotated queries and keys, whose product depends on their relative position (Su et al. 2021).

    The component i of the first half is paired with component i of the second half (Hugging Face's layout), or
    neighbours with each other (`interleaved`).
    """

    ops: Ops = torch_ops
    frequency: Tensor
    long_frequency: Tensor

    def __init__(self, config: RopeConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("frequency", frequencies(config), persistent=False)
        if config.kind == "longrope":
            self.register_buffer("long_frequency", frequencies(config, long=True), persistent=False)

    def forward(self, positions_BT: Int[Tensor, "B T"], dtype: torch.dtype, longest: int = 0) -> tuple[Tensor, Tensor]:
        """cos and sin of every pair's angle, each [B, T, 1, K/2]. Angles are taken in float32 or better.

        longest: positions of the longest text, by which longrope chooses its frequencies.
        """
        wide = torch.promote_types(dtype, torch.float32)
        long = self.config.kind == "longrope" and longest > self.config.original_context
        frequency = self.long_frequency if long else self.frequency
        angle = positions_BT[:, :, None, None].to(wide) * frequency.to(wide)
        cos, sin = self.ops.cos_sin(angle)
        if (strength := self.config.attention_factor) != 1:
            cos, sin = cos * strength, sin * strength
        return cos.to(dtype), sin.to(dtype)


def alibi(config: AlibiConfig, positions_BS: Int[Tensor, "B S"], dtype: torch.dtype) -> Float[Tensor, "B H 1 S"]:
    """What each head adds to its scores of the positions attended to."""
    exact = torch.bfloat16 if config.bfloat16 else torch.promote_types(dtype, torch.float32)
    slopes_H = torch.tensor(config.slopes, dtype=torch.float32, device=positions_BS.device).to(exact)
    return (slopes_H[:, None, None] * positions_BS[:, None, None].to(exact)).to(dtype) * config.scale


def frequencies(config: RopeConfig, long: bool = False) -> Tensor:
    """Radians per position of each pair, float64 [dims / 2], fastest first. long: longrope's for long texts."""
    pairs = torch.arange(0, config.dims, 2, dtype=torch.float64, device="cpu")  # also while the model is on meta
    plain = config.theta ** -(pairs / config.dims)
    if config.kind == "linear":
        return plain / config.factor
    if config.kind == "llama3":
        return _llama3(plain, config)
    if config.kind == "yarn":
        return _yarn(plain, config)
    if config.kind == "longrope":
        return plain / plain.new_tensor(config.long_factors if long else config.short_factors)
    if config.kind == "proportional":
        return plain.where(pairs < 2 * config.pairs, 0.0) / config.factor
    return plain


def _llama3(plain: Tensor, config: RopeConfig) -> Tensor:
    """High frequencies are unchanged, low ones are divided by the factor, those between are blended."""
    low, high = config.low_freq_factor, config.high_freq_factor
    rotations = config.original_context * plain / (2 * math.pi)  # over the original context
    unchanged = ((rotations - low) / (high - low)).clamp(0, 1)
    return unchanged * plain + (1 - unchanged) * plain / config.factor


def _yarn(plain: Tensor, config: RopeConfig) -> Tensor:
    """High frequencies are unchanged, low ones are divided by the factor: a ramp between two pairs."""

    def pair_with(rotations: float) -> float:
        wave = config.original_context / (rotations * 2 * math.pi)
        return config.dims * math.log(wave) / (2 * math.log(config.theta))

    low, high = pair_with(config.beta_fast), pair_with(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.dims - 1)
    width = max(high - low, 0.001)  # a ramp of no width would divide by zero
    divided = ((torch.arange(len(plain), dtype=torch.float64, device=plain.device) - low) / width).clamp(0, 1)
    return (1 - divided) * plain + divided * plain / config.factor
