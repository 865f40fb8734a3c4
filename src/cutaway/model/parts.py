"""A part of the decoder run by hand: its own module, called as the forward pass calls it, on a value from anywhere.

It knows modules and what each reads; it does not know text, nor where the value comes from.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cutaway.ground.errors import BadArgument
from cutaway.ground.select import nearest
from cutaway.ground.shapes import TokenBatch
from cutaway.model.decoder import Attention, Block, Decoder, Embed
from cutaway.model.positions import Rotary
from cutaway.model.sinks import Sinks
from cutaway.model.tap import Untapped, untapped


def part_of(decoder: Decoder, name: str) -> nn.Module:
    """The module of that name. Raises BadArgument, with the nearest names."""
    parts = {n: m for n, m in decoder.named_modules() if not isinstance(m, nn.ModuleList | Decoder | Rotary | Sinks)}
    if name not in parts:
        found, known = f"no part {name!r}", list(parts)
        expected = f"a module of this model, such as {nearest(str(name), known)}"
        raise BadArgument(found, expected, "print the model for its modules")
    return parts[name]


def dtype_of(decoder: Decoder) -> torch.dtype:
    """The dtype between the layers: of what the embedding gives, not always of its table."""
    table: Any = decoder.embed.token
    return getattr(table, "dtype", table.weight.dtype)


def embedded(decoder: Decoder, name: str, tokens: TokenBatch) -> Tensor:
    """What "embed" gives for tokens, or one of its tables, "embed.token" or "embed.position": [B, T, D or E]."""
    part, rows = part_of(decoder, name), _Rows(name)
    result = decoder.embed(tokens, rows)
    return result if isinstance(part, Embed) else rows.value


def run_part(decoder: Decoder, name: str, x: Any, tokens: TokenBatch) -> Tensor:
    """What any other module gives for x: the value that it reads, [B, T, D], or [..., inputs] of a linear layer.

    tokens: whose mask and positions attention obeys. Raises BadArgument for an unknown part, or an x that it does not
    read.
    """
    part = part_of(decoder, name)
    value = _read_by(name, part, x, decoder)
    if isinstance(part, Block | Attention):
        if value.shape[:2] != tokens.ids.shape:
            found = f"{list(value.shape)} for tokens {list(tokens.ids.shape)}"
            raise BadArgument(found, "a vector for each token", "pass the tokens that the vectors belong to")
        return part(value, decoder.info(tokens, None, value.dtype), None, untapped)
    return part(value) if hasattr(part, "in_features") else part(value, untapped)


class _Rows(Untapped):
    """Keeps the value of one site."""

    def __init__(self, site: str) -> None:
        self.site, self.value = site, torch.empty(0, dtype=torch.float32, device="cpu")

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name == self.site:
            self.value = value
        return value


def _read_by(name: str, part: Any, x: Any, decoder: Decoder) -> Tensor:
    """x on the model's device, in its dtype. Raises BadArgument where this part does not read it."""
    linear = hasattr(part, "in_features")
    width = int(part.in_features) if linear else decoder.config.d_model
    fits = isinstance(x, Tensor) and x.is_floating_point() and x.ndim >= 1 and x.shape[-1] == width
    if not fits or (x.ndim != 3 and not linear):
        found = f"{list(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        expected = f"numbers [{'...' if linear else 'B, T'}, {width}]"
        raise BadArgument(f"{found} for {name!r}", expected, "pass the value that this part reads")
    return x.to(decoder.embed.token.weight.device, dtype_of(decoder))
