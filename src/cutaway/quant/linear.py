"""Int8Linear: takes the place of nn.Linear, with the weight in 8 bits. Same call, same shapes; gradients flow to x.

It chooses who computes, and says so. It does not know files, models, or which layers are worth quantizing.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.ground.errors import BadArgument
from cutaway.model.packed import pack, unpack
from cutaway.quant import native
from cutaway.quant.int8 import Mode, check_mode, dequantize, linear, quantize_weight
from cutaway.quant.products import product_for

Run = Callable[[Tensor], Tensor]


class Int8Linear(nn.Module):
    """x [..., in_features] → [..., out_features] in x's dtype.

    codes int8 [N, K] may lie in a read-only mapped file: they run as they lie. Codes, scale and bias are buffers,
    replaced but never written in place (sums of the codes are kept beside them). mode: see quant/int8.py.
    """

    codes: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None = None, mode: Mode = "int8") -> None:
        super().__init__()
        check_mode(mode)
        _check_parts(codes, scale, bias)
        self.out_features, self.in_features = codes.shape
        self.mode: Mode = mode
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale.float())
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        self._prepared: Prepared | None = None

    @classmethod
    def from_parts(cls, codes: Tensor, scale: Tensor, bias: Tensor | None = None, mode: Mode = "int8") -> "Int8Linear":
        """From codes int8 [N, K], scale [N] and bias [N] as they were saved."""
        return cls(codes, scale, bias, mode)

    @classmethod
    def from_linear(cls, layer: nn.Linear, mode: Mode = "int8") -> "Int8Linear":
        """The same layer, its weight quantized. Raises NotFinite where a weight is NaN or infinite."""
        codes, scale = quantize_weight(layer.weight.detach())
        return cls(codes, scale, layer.bias, mode)

    @property
    def weight(self) -> Tensor:
        """The weight that the codes stand for, float32 [N, K], made anew each time."""
        return dequantize(self.codes, self.scale)

    @property
    def engine(self) -> str:
        """Who computes this layer: "native avx512-vnni", "torch onednn", "torch _int_mm", "torch float64"..."""
        return self.ready().engine()

    @property
    def native(self) -> bool:
        """Whether the native library computes it; asking `engine` would read all codes, which a mapped file has not."""
        return runs_natively(self.codes)

    def forward(self, x: Tensor) -> Tensor:
        """x · weight + bias. Raises BadArgument for a width that does not fit."""
        if torch.is_grad_enabled() and x.requires_grad:
            return StraightThrough.apply(x, self)
        return self.ready().run(x)

    def extra_repr(self) -> str:
        has_bias = self.bias is not None
        return f"{self.in_features}, {self.out_features}, bias={has_bias}, mode={self.mode}, engine={self.engine}"

    def ready(self) -> "Prepared":
        """What the engine keeps beside the buffers, made again when one of them was replaced or written."""
        ready, buffers = self._prepared, self._buffers
        if ready is None or not ready.made_of(buffers["codes"], buffers["scale"], buffers["bias"], self.mode):
            ready = self._prepared = Prepared(self.codes, self.scale, self.bias, self.mode)
        return ready

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Int8Linear":
        """A model moved to a 16-bit dtype keeps its scales and biases in float32: the arithmetic is defined so."""
        scale, bias = self.scale, self.bias
        super()._apply(fn, recurse)
        self._prepared = None  # fn may have moved what a tensor holds: share_memory_
        self.scale = scale.to(self.scale.device)
        self.bias = None if bias is None else bias.to(self.scale.device)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._prepared = None  # loading writes into the buffers
        self.codes = self.codes  # for what counts replaced parts (versions.py)

    def __getstate__(self) -> dict[str, Any]:
        self._prepared = None  # no pointer survives; and torch moves to shared memory what it hands to a process
        return self.__dict__ | {"_buffers": {name: pack(value) for name, value in self._buffers.items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        buffers = {name: unpack(value) for name, value in state["_buffers"].items()}
        super().__setstate__(state | {"_buffers": buffers})


def runs_natively(codes_NK: Tensor) -> bool:
    """Whether the native library computes the layer of these codes."""
    return native.available and codes_NK.is_cpu and codes_NK.shape[1] <= native.MAX_WIDTH


class Prepared:
    """An engine, chosen and prepared for one set of buffers."""

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None, mode: Mode) -> None:
        self.parts: tuple[Tensor, Tensor, Tensor | None, Mode] = (codes, scale, bias, mode)
        self.versions = _version(codes), _version(scale), _version(bias)
        self.native: native.NativeLayer | None = None
        self.name = "torch float32"
        self.run: Run = self._in_torch
        self.product = None
        if runs_natively(codes):
            self.native = native.NativeLayer(codes, scale, bias, mode)
            self.run = self._natively
        elif mode != "int8-weight":
            self.name, self.product = product_for(codes)

    def made_of(self, codes: Tensor | None, scale: Tensor | None, bias: Tensor | None, mode: Mode) -> bool:
        """Whether these are the buffers, unwritten since."""
        own = self.parts
        same = codes is own[0] and scale is own[1] and bias is own[2] and mode == own[3]
        return same and (_version(codes), _version(scale), _version(bias)) == self.versions

    def engine(self) -> str:
        return self.name if self.native is None else f"native {native.isa()}"

    def _natively(self, x: Tensor) -> Tensor:
        assert self.native is not None
        return self.native(x) if x.dtype in native.DTYPES else self.native(x.float()).to(x.dtype)

    def _in_torch(self, x: Tensor) -> Tensor:
        codes, scale, bias, mode = self.parts
        if x.shape[-1] != codes.shape[1]:
            found = f"an input {list(x.shape)}"
            raise BadArgument(found, f"[..., {codes.shape[1]}]", "pass what the layer before gives")
        more = {} if self.product is None else {"product": self.product}
        return linear(x, codes, scale, bias, mode, **more)


def _version(tensor: Tensor | None) -> tuple[int, int]:
    """Another one after a write in place, which inference tensors do not count, or where the memory is another."""
    if tensor is None or tensor.is_meta:
        return 0, 0
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


class StraightThrough(torch.autograd.Function):
    """The int8 layer forward; backward as if it were x @ weight.T: rounding the activation counts as the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Int8Linear) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return layer.ready().run(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return (grads[0].float() @ ctx.layer.weight).to(ctx.dtype), None


def _check_parts(codes: Tensor, scale: Tensor, bias: Tensor | None) -> None:
    rows = codes.shape[:1]
    if codes.ndim == 2 and codes.dtype == torch.int8 and scale.shape == rows and (bias is None or bias.shape == rows):
        return
    found = f"codes {list(codes.shape)} of {codes.dtype} with scale {list(scale.shape)}"
    found += "" if bias is None else f" and bias {list(bias.shape)}"
    raise BadArgument(found, "codes int8 [N, K], scale [N] and bias [N] or none", "pass the parts of one layer")
