"""Weights changed temporarily: a matrix replaced, or a low-rank update added to it, and all restored afterwards.

It knows the names of ground/layers.py ("blocks.3.W_O") and the modules that hold them; it does not know values.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cutaway.ground.errors import BadArgument
from cutaway.ground.layers import Weight, all_weights
from cutaway.model.decoder import Decoder
from cutaway.quant.linear import Int8Linear

Change = Tensor | tuple[Tensor, Tensor]  # the matrix [N, K] itself, or A [N, R] and B [R, K], whose product is added


@contextmanager
def changed(decoder: Decoder, weights: Mapping[str, Change]) -> Iterator[None]:
    """Within the context the decoder has these weights; afterwards its own layers again, unchanged.

    In an 8-bit layer the rows that change are quantized as at load, and the others keep their codes. Raises
    BadArgument for a matrix that the model does not have or a shape that does not fit, and NotFinite.
    """
    if not isinstance(weights, Mapping):
        expected = 'a dict from matrices to their changes, such as {"blocks.3.W_O": W}'
        raise BadArgument(f"{type(weights).__name__} as weights", expected, "pass edits of values as edits= to a run")
    table = {name: w for name, w in all_weights(decoder.config).items() if w.kind in ("linear", "projection")}
    layers: dict[str, nn.Module] = {}
    for name, change in weights.items():
        if name not in table:
            found, expected = f"no matrix {name!r}", "one of this model, such as " + ", ".join(list(table)[:4])
            raise BadArgument(found, expected, "correct the name")
        layer = table[name].module
        before = layers.get(layer, decoder.get_submodule(layer))
        layers[layer] = _with_rows(table[name], before, change)
    originals = {layer: decoder.get_submodule(layer) for layer in layers}
    try:
        for layer, module in layers.items():
            _put(decoder, layer, module)
        yield
    finally:
        for layer, module in originals.items():
            _put(decoder, layer, module)


def _with_rows(weight: Weight, layer: nn.Module, change: Change) -> nn.Module:
    """A new layer, like the old but for this weight's rows."""
    assert isinstance(layer, Int8Linear | nn.Linear), "every layer of the table is one of these"
    weight_NK, start, end = layer.weight.detach(), weight.rows.start, weight.rows.stop
    rows_NK = _new_rows(weight.name, weight_NK[weight.rows], change)
    if isinstance(layer, Int8Linear):
        new = Int8Linear.from_linear(_linear(rows_NK, None), layer.mode)
        codes = torch.cat((layer.codes[:start], new.codes, layer.codes[end:]))
        scale = torch.cat((layer.scale[:start], new.scale, layer.scale[end:]))
        return Int8Linear.from_parts(codes, scale, layer.bias, layer.mode)
    new_NK = torch.cat((weight_NK[:start], rows_NK.to(weight_NK), weight_NK[end:]))
    return _linear(new_NK, layer.bias)


def _new_rows(name: str, rows_NK: Tensor, change: Change) -> Tensor:
    if isinstance(change, Tensor):
        fits, given = change.shape == rows_NK.shape, list(change.shape)
    else:
        a_NR, b_RK = change
        given = [list(a_NR.shape), list(b_RK.shape)]
        fits = a_NR.ndim == b_RK.ndim == 2 and a_NR.shape[1] == b_RK.shape[0]
        fits = fits and (a_NR.shape[0], b_RK.shape[1]) == tuple(rows_NK.shape)
    if not fits:
        n, k = rows_NK.shape
        expected = f"[{n}, {k}], or a pair [{n}, R] and [R, {k}]"
        raise BadArgument(f"{given} for {name}", expected, "pass a matrix of its shape")
    if isinstance(change, Tensor):
        return change.detach().to(rows_NK.device).clone()
    return rows_NK.float() + (change[0].float() @ change[1].float()).to(rows_NK.device)


def _linear(weight_NK: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight_NK.shape[1], weight_NK.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight_NK, requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)  # pyright: ignore
    return layer


def _put(decoder: Decoder, layer: str, module: nn.Module) -> None:
    parent, _, name = layer.rpartition(".")
    setattr(decoder.get_submodule(parent), name, module)
