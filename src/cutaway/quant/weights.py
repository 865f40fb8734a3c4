"""Weights: every weight and bias that a formula names, by name: lm.weights["blocks.3.W_O"].

Read from its layer when it is asked for, from codes in 8 bits. It does not know values, nor how a weight is changed
(edit/weights.py).
"""

from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor

from cutaway.ground.errors import BadArgument
from cutaway.ground.layers import Weight, all_weights
from cutaway.ground.select import BLOCK, ByName, full_name
from cutaway.model.decoder import Decoder
from cutaway.quant.formats import dequantize
from cutaway.quant.linear import Int8Linear


class Weights(ByName[Tensor]):
    """weights["blocks.3.W_O"] or weights["W_O", 3]: a copy in float32 (float64 of a model in float64).

    A matrix is [outputs, inputs], so that x @ W.T is the layer; of a layer in 8 bits it is what the codes stand for.
    Keys: the names of the formulas in docs/vocabulary.md, in the order of the forward pass; of W_Q the bias is b_Q, of
    ln1.w it is ln1.b. Raises BadArgument for another key, with the nearest names.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.table: dict[str, Weight] = {}
        for name, weight in all_weights(decoder.config).items():
            self.table[name] = weight
            if weight.bias:
                self.table[_bias(weight)] = weight

    def __getitem__(self, key: Any) -> Tensor:
        name = full_name("weight", key, list(self.table))
        weight = self.table[name]
        layer: Any = self.decoder.get_submodule(weight.module)
        if name != weight.name:
            part = layer.bias[weight.rows]
        elif isinstance(layer, Int8Linear):
            return dequantize(layer.codes[weight.rows], layer.scale[weight.rows])
        else:
            part = layer.weight[weight.rows]
        return part.detach().to(torch.promote_types(part.dtype, torch.float32), copy=True)

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)

    def __contains__(self, key: object) -> bool:
        try:
            return full_name("weight", key, list(self.table)) in self.table
        except BadArgument:
            return False

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        do = f"write: with lm.edited({{{key!r}: …}})"
        raise BadArgument(f"a new value for the weight {key!r}", "a weight that is read only", do)

    def shape(self, name: str) -> tuple[int, ...]:
        """A weight's shape, without reading it."""
        weight = self.table[full_name("weight", name, list(self.table))]
        layer: Any = self.decoder.get_submodule(weight.module)
        rows = weight.rows.stop - weight.rows.start
        if name != weight.name or weight.kind in ("norm", "sinks"):
            return (rows,)
        return rows, int(layer.embedding_dim if weight.kind == "embedding" else layer.in_features)

    def __repr__(self) -> str:
        return f"<Weights: {len(self)} of this model, {next(iter(self))} to {list(self)[-1]}; print it for their names>"

    def __str__(self) -> str:
        """A line for each weight, one for all blocks: its shape [outputs, inputs], and how it is stored."""
        lines = [f"{'weight':<20}{'shape':<18}stored as"]
        for name in self:
            if not name.startswith("blocks.") or name.startswith("blocks.0."):
                layer = self.decoder.get_submodule(self.table[name].module)
                label = BLOCK.sub("blocks.*.", name)
                lines.append(
                    f"{label:<20}{list(self.shape(name))!s:<18}{_stored(layer, name == self.table[name].name)}"
                )
        return "\n".join(lines)


def _bias(weight: Weight) -> str:
    return ".".join([*weight.name.split(".")[:-1], weight.bias])


def _stored(layer: Any, matrix: bool) -> str:
    if matrix and isinstance(layer, Int8Linear):
        return f"8 bits ({layer.mode})"
    return str((layer.weight if matrix else layer.bias).dtype).removeprefix("torch.")
