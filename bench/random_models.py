"""Decoders of random weights in a published shape, made where they run: arithmetic and speed do not depend on them."""

import torch
from torch import nn

from cutaway.ground.config import DecoderConfig
from cutaway.model.decoder import Decoder
from cutaway.model.positions import Rotary
from cutaway.quant.engine import use_native
from cutaway.quant.formats import Mode
from cutaway.quant.linear import Int8Linear, as_stored, stored_shapes
from cutaway.weights.load import empty_decoder


def decoder(facts: DecoderConfig, mode: Mode | None, device: str, dtype: torch.dtype) -> Decoder:
    """Random weights of that dtype, and linear layers in that mode; routers stay as they are."""
    made = empty_decoder(facts)
    if mode is not None:
        for name, linear in [(n, m) for n, m in made.named_modules() if isinstance(m, nn.Linear) and "router" not in n]:
            owner, _, leaf = name.rpartition(".")
            setattr(made.get_submodule(owner), leaf, random_layer(linear, mode, device))
    for module in made.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                value = torch.randn(parameter.shape, dtype=dtype, device=device) * 0.02
                setattr(module, name, nn.Parameter(value, requires_grad=False))
    if made.rotary is not None:
        made.rotary = torch.nn.ModuleList(Rotary(rope) for rope in facts.ropes).to(device)
    use_native(made)
    return made


def random_layer(linear: nn.Linear, mode: Mode, device: str) -> Int8Linear:
    """Random codes, and scales of 0.0005 a group, or 0.02 a row."""
    shape = (linear.out_features, linear.in_features)
    kinds = stored_shapes(shape, mode)
    stored = [torch.randint(-30, 30, size, dtype=kind, device=device) if kind == torch.int8
              else torch.full(size, 0.02, dtype=kind, device=device) for size, kind in kinds.values()]  # fmt: skip
    if mode == "int8":
        stored[0].view(torch.float16)[:, :, 0] = 0.0005
    bias = None if linear.bias is None else torch.zeros(shape[0], dtype=torch.float32, device=device)
    return as_stored(stored, shape, bias, mode)
