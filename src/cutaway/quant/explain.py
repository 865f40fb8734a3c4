"""The inside of an 8-bit layer: codes, scales, outliers and what they cost, from the layer and a recorded input.

Every part is a formula of quant/formats.py; their sum is the layer's own output. It does not know how the input was
recorded, nor which backend computes the layer.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from cutaway.ground.config import DecoderConfig
from cutaway.ground.display import brief
from cutaway.ground.errors import BadArgument
from cutaway.ground.layers import all_weights, expert_of
from cutaway.model.decoder import Decoder
from cutaway.quant.formats import (
    GROUP,
    Mode,
    dequantize,
    exact_product,
    grouped_product,
    quantize_activation,
    round_activation,
)
from cutaway.quant.linear import Int8Linear

HEAD = "unembed.head"


@dataclass(frozen=True, repr=False)
class Output:
    """One number of a layer's result, decomposed.

    value = inlier + outlier + bias. In "int8" inlier = Σ over groups of product · weight_scale · activation_scale; in
    LLM.int8(), whose row is one group, inlier = product · weight_scale · activation_scale / 127².
    """

    weight_codes: Int8[Tensor, "K"]
    weight_scales: tuple[float, ...]  # of each group of 32 columns, or of the row
    activation_codes: Int[Tensor, "K"]
    activation_scales: tuple[float, ...]
    products: tuple[int, ...]  # of each group: the sum of code · code, an integer
    outlier_columns: tuple[int, ...]  # of this token
    inlier: float
    outlier: float
    bias: float

    __repr__ = brief

    @property
    def value(self) -> float:
        return self.inlier + self.outlier + self.bias


@dataclass(frozen=True, repr=False)
class Explained:
    """A layer in 8 bits and one call's input: x [..., K] → [..., N]. Large tensors are computed when they are read.

    A value is its code · its scale in "int8", and code · scale / 127 in LLM.int8(). original: the weight before it was
    quantized, where it is known.
    """

    mode: Mode
    x: Float[Tensor, "... K"]
    weight_codes: Int8[Tensor, "N K"]
    weight_scale: Float[Tensor, "N *G"]
    bias: Float[Tensor, "N"] | None
    activation_codes: Int[Tensor, "... K"]  # int16 in "int8", int8 in LLM.int8()
    activation_scale: Float[Tensor, "..."]  # of a token, or with G: of its groups
    outlier: Bool[Tensor, "... K"]  # multiplied in float; none in "int8"
    original: Float[Tensor, "N K"] | None = None

    __repr__ = brief

    @property
    def outlier_columns(self) -> Int[Tensor, "C"]:
        """The union over the tokens, ascending."""
        return self.outlier.flatten(0, -2).any(0).nonzero()[:, 0]

    @cached_property
    def dequantized(self) -> Float[Tensor, "N K"]:
        """The weight that the codes stand for."""
        return dequantize(self.weight_codes, self.weight_scale)

    @cached_property
    def inlier_part(self) -> Float[Tensor, "... N"]:
        """The codes' exact integer products, times the scales."""
        codes_MK = self.activation_codes.flatten(0, -2)
        scale = self.activation_scale.flatten(0, self.x.ndim - 2)
        if self.mode == "int8":
            part_MN = grouped_product(codes_MK, scale, self.weight_codes, self.weight_scale)
        else:
            part_MN = exact_product(codes_MK, self.weight_codes) * (scale[:, None] * (self.weight_scale / 127**2))
        return part_MN.unflatten(0, self.x.shape[:-1])

    @cached_property
    def outlier_part(self) -> Float[Tensor, "... N"]:
        """What the outliers give, in float, against their columns of the dequantized weight."""
        if self.mode == "int8":
            return torch.zeros_like(self.inlier_part)
        columns = self.outlier_columns
        outliers = torch.where(self.outlier, self.x.float(), 0.0)[..., columns]
        return outliers @ dequantize(self.weight_codes[:, columns], self.weight_scale).T

    @property
    def result(self) -> Float[Tensor, "... N"]:
        """The layer's output: the two parts and the bias, in x's dtype."""
        total = self.inlier_part + self.outlier_part
        return (total if self.bias is None else total + self.bias).to(self.x.dtype)

    @property
    def outlier_share(self) -> Float[Tensor, "..."]:
        """Of each token: the norm of the outliers' part over the norm of the result. 0 where there is no outlier."""
        part, total = self.outlier_part.norm(dim=-1), self.result.float().norm(dim=-1)
        return torch.where(part == 0, 0.0, part / total)

    @property
    def error(self) -> Float[Tensor, "..."] | None:
        """Of each token: |result - full| / |full|, full being the layer with its original weight."""
        if self.original is None:
            return None
        full = self.x.float() @ self.original.float().T
        full = full if self.bias is None else full + self.bias
        return (self.result.float() - full).norm(dim=-1) / full.norm(dim=-1)

    @property
    def read(self) -> Float[Tensor, "... K"]:
        """The input as the layer reads it: what its codes stand for, and outliers as they are."""
        width = GROUP if self.mode == "int8" else self.x.shape[-1]
        scale = self.activation_scale.reshape(*self.x.shape[:-1], -1).repeat_interleave(width, -1)
        unit = 1 if self.mode == "int8" else 127
        return torch.where(self.outlier, self.x.float(), self.activation_codes * scale[..., : self.x.shape[-1]] / unit)

    def error_shares(self, at: tuple[int, ...]) -> Float[Tensor, "K"] | None:
        """How much of the error of the token x[at] comes from each of its inputs: shares that sum to 1.

        The error result - full is a sum over the inputs k of W8[:, k] · read[k] - W[:, k] · x[k]; a share is that
        vector's component along the whole error, over its length. Negative: it cancels others. None where the original
        weight is unknown; NaN where there is no error.
        """
        if self.original is None:
            return None
        errors_NK = self.dequantized * self.read[at] - self.original.float() * self.x[at].float()
        error_N = errors_NK.sum(1)
        return error_N @ errors_NK / error_N.square().sum()

    @property
    def bytes(self) -> int:
        """Bytes of the codes and their scales."""
        return self.weight_codes.nbytes + self.weight_scale.nbytes

    @property
    def bytes_saved(self) -> dict[str, int]:
        """Against the same weight in full precision, by its dtype."""
        sizes = {"float32": 4, "bfloat16": 2, "float16": 2}
        return {name: self.weight_codes.numel() * size - self.bytes for name, size in sizes.items()}

    def output(self, at: tuple[int, ...], row: int) -> Output:
        """One number of the result: that of the token x[at] and of one output."""
        outlier_K, codes_K, activation_K = self.outlier[at], self.weight_codes[row], self.activation_codes[at]
        width, unit = (GROUP, 1) if self.mode == "int8" else (len(codes_K), 127**2)
        products = torch.stack([part.sum() for part in (activation_K.long() * codes_K.long()).split(width)])
        scales = [part.float().reshape(-1) for part in (self.weight_scale[row], self.activation_scale[at])]
        inlier = (products * scales[0] * scales[1]).sum() / unit
        weight_K = dequantize(codes_K[None], self.weight_scale[row : row + 1])[0]
        return Output(
            weight_codes=codes_K,
            weight_scales=tuple(scales[0].tolist()),
            activation_codes=activation_K,
            activation_scales=tuple(scales[1].tolist()),
            products=tuple(products.tolist()),
            outlier_columns=tuple(outlier_K.nonzero()[:, 0].tolist()),
            inlier=float(inlier),
            outlier=float((torch.where(outlier_K, self.x[at].float(), 0.0) * weight_K).sum()),
            bias=0.0 if self.bias is None else float(self.bias[row]),
        )


def explain(layer: Int8Linear, x: Float[Tensor, "... K"], original: Float[Tensor, "N K"] | None = None) -> Explained:
    """The layer on the full input of one call: "llm-int8-pooled" depends on all its tokens.

    original: the weight before it was quantized. Raises BadArgument for an input or a weight that is not this layer's.
    """
    shape = [layer.out_features, layer.in_features]
    if x.ndim < 2 or x.shape[-1] != layer.in_features:
        raise BadArgument(f"an input {list(x.shape)}", f"[..., {layer.in_features}]", "pass what this layer read")
    if original is not None and list(original.shape) != shape:
        raise BadArgument(f"a weight {list(original.shape)}", f"{shape}", "pass the weight that this layer had")
    x_MK = x.flatten(0, -2)
    if layer.mode == "int8":
        parts = (*round_activation(x_MK), torch.zeros_like(x_MK, dtype=torch.bool))
    else:
        parts = quantize_activation(x_MK, pooled=layer.mode == "llm-int8-pooled")
    codes, scale, outlier = (part.unflatten(0, x.shape[:-1]) for part in parts)
    return Explained(layer.mode, x, layer.codes, layer.scale, layer.bias, codes, scale, outlier, original)


def int8_layers(decoder: Decoder) -> dict[str, Int8Linear]:
    """The layers that are in 8 bits, in the order in which the data meets them."""
    return {name: module for name, module in decoder.named_modules() if isinstance(module, Int8Linear)}


def mode_of(decoder: Decoder) -> Mode | None:
    """The mode of the layers that are in 8 bits; None where there are none."""
    return next((layer.mode for layer in int8_layers(decoder).values()), None)


def layer_input_sites(config: DecoderConfig) -> dict[str, str]:
    """Which site each layer that can be in 8 bits reads, by the layer's name; see `layer_input` for how it reads it."""
    return {weight.module: weight.reads for weight in all_weights(config).values() if weight.kind == "linear"}


def layer_input(decoder: Decoder, layer: str, value: Tensor) -> Float[Tensor, "B T K"]:
    """The value of a layer's input site as it enters the layer: heads concatenated, of all experts' its own, and
    projected out for the head."""
    expert = expert_of(layer)
    x = value.flatten(2) if expert is None or value.ndim == 3 else value[:, :, expert]
    project = decoder.unembed.project_out if layer == HEAD else None
    if project is None:
        return x
    with torch.inference_mode():
        return project(x)
