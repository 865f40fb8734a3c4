"""Int8Linear: takes the place of nn.Linear, with the weight in 8 bits. Same call, same shapes; gradients flow to x.

It chooses who computes, and says so. It does not know files, models, or which layers are worth quantizing.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from cutaway.ground.errors import BadArgument
from cutaway.ground.packed import pack, unpack
from cutaway.quant import native
from cutaway.quant.formats import Mode, check_mode, dequantize, linear, quantize_weight
from cutaway.quant.native import NativeLayer
from cutaway.quant.panels import codes_of, panels_of, panels_shape, scales_of
from cutaway.quant.products import product_for, rounded_product

Run = Callable[[Tensor], Tensor]
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Int8Linear(nn.Module, ABC):
    """x [..., in_features] → [..., out_features] in x's dtype; one class for each way to store the weight.

    The stored parts may lie in a read-only mapped file: they run as they lie. They and the bias are buffers, replaced
    but never written in place (sums of the codes are kept beside them). mode: see quant/formats.py.
    """

    STORED: ClassVar[tuple[str, ...]]  # the names of the weight's buffers
    mode: Mode
    codes: Tensor  # int8 [N, K]
    scale: Tensor  # float16 [N, G] or float32 [N]
    bias: Tensor | None

    def __init__(self, stored: Sequence[Tensor], shape: tuple[int, int], bias: Tensor | None, mode: Mode) -> None:
        super().__init__()
        self.out_features, self.in_features = shape
        self.mode = mode
        for name, part in zip(self.STORED, stored, strict=True):
            self.register_buffer(name, part)
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        self._prepared: Prepared | None = None

    @staticmethod
    def from_parts(codes: Tensor, scale: Tensor, bias: Tensor | None = None, mode: Mode = "int8") -> "Int8Linear":
        """From codes int8 [N, K], their scales (see quantize_weight) and bias [N]."""
        check_mode(mode)
        rows, width = codes.shape if codes.ndim == 2 else (-1, -1)
        shape, kinds = ((rows, panels_shape(rows, width)[1]), (torch.float16,)) if mode == "int8" else ((rows,), FLOATS)
        fits = codes.dtype == torch.int8 and scale.shape == shape and scale.dtype in kinds
        if not fits or (bias is not None and bias.shape != (rows,)):
            found = f"codes {list(codes.shape)} of {codes.dtype} with scale {list(scale.shape)} of {scale.dtype}"
            found += "" if bias is None else f" and bias {list(bias.shape)}"
            scales = "float16 [N, K / 32]" if mode == "int8" else "[N]"
            expected = f"codes int8 [N, K], scale {scales} and bias [N] or none"
            raise BadArgument(found, expected, "pass the parts of one layer")
        stored = (panels_of(codes, scale),) if mode == "int8" else (codes, scale.float())
        return as_stored(stored, (rows, width), bias, mode)

    @staticmethod
    def from_linear(layer: nn.Linear, mode: Mode = "int8") -> "Int8Linear":
        """The same layer, its weight quantized. Raises NotFinite where a weight is NaN or infinite."""
        check_mode(mode)
        return Int8Linear.from_parts(*quantize_weight(layer.weight.detach(), mode), layer.bias, mode)

    @property
    def weight(self) -> Tensor:
        """The weight that the codes stand for, float32 [N, K], made anew each time."""
        return dequantize(self.codes, self.scale)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored weight and the bias."""
        return sum(part.nbytes for part in self._buffers.values() if part is not None)

    @property
    def engine(self) -> str:
        """Who computes this layer: "native avx512-vnni", "torch onednn", "torch _int_mm", "torch float64"..."""
        return self.ready().engine()

    @property
    def native(self) -> bool:
        """Whether the native library computes it; asking `engine` would read all codes, which a mapped file has not."""
        first = self._buffers[self.STORED[0]]
        assert first is not None, "a layer has its weight"
        return native.available and first.is_cpu and self.in_features <= native.MAX_WIDTH

    @abstractmethod
    def native_layer(self) -> NativeLayer:
        """As the native library wants it."""

    @abstractmethod
    def torch_run(self) -> tuple[str, Run]:
        """What computes it in torch, and how: x [..., K] → [..., N]."""

    def forward(self, x: Tensor) -> Tensor:
        """x · weight + bias. Raises BadArgument for a width that does not fit."""
        if torch.is_grad_enabled() and x.requires_grad:
            return StraightThrough.apply(x, self)
        return self.ready().run(x)

    def extra_repr(self) -> str:
        has_bias = self.bias is not None
        return f"{self.in_features}, {self.out_features}, bias={has_bias}, mode={self.mode}, engine={self.engine}"

    def called_as_written(self) -> bool:
        """Whether a call does what `forward` says: no hook waits, and no other forward was put in its place."""
        return type(self).forward is FORWARD and not called(self)

    def ready(self) -> "Prepared":
        """What the engine keeps beside the buffers, made again when one of them was replaced or written."""
        ready = self._prepared
        if ready is None or not ready.made_of(self):
            ready = self._prepared = Prepared(self)
        return ready

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Int8Linear":
        """A model moved to a 16-bit dtype keeps its scales and biases as they are: the arithmetic is defined so."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        self._prepared = None  # fn may have moved what a tensor holds: share_memory_
        for name, part in before.items():
            moved = self._buffers[name]
            if part is not None and moved is not None and moved.dtype != part.dtype:
                setattr(self, name, part.to(moved.device))
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._prepared = None  # loading writes into the buffers
        for name in self.STORED:
            setattr(self, name, self._buffers[name])  # for what counts replaced parts (versions.py)

    def __getstate__(self) -> dict[str, Any]:
        self._prepared = None  # no pointer survives; and torch moves to shared memory what it hands to a process
        return self.__dict__ | {"_buffers": {name: pack(value) for name, value in self._buffers.items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        buffers = {name: unpack(value) for name, value in state["_buffers"].items()}
        super().__setstate__(state | {"_buffers": buffers})


FORWARD = Int8Linear.forward
HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def called(module: nn.Module) -> bool:
    """Whether a hook, or a method put on the module itself, waits for its call."""
    table = vars(module)
    return bool("forward" in table or any(table[name] or vars(torch_module)["_global" + name] for name in HOOKS))


class GroupedLinear(Int8Linear):
    """Mode "int8": weights in groups of 32, stored as panels (quant/panels.py); activations in 16 bits a token."""

    STORED = ("panels",)
    panels: Tensor

    @property
    def codes(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A copy of the codes, int8 [N, K]."""
        return codes_of(self.panels, self.out_features, self.in_features)

    @property
    def scale(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A copy of the groups' scales, float16 [N, G]."""
        return scales_of(self.panels, self.out_features)

    def native_layer(self) -> NativeLayer:
        return NativeLayer(self.panels, self.out_features, self.in_features, self.bias)

    def torch_run(self) -> tuple[str, Run]:
        panels, rows, width, bias = self.panels, self.out_features, self.in_features, self.bias
        if panels.is_cuda and find_spec("triton"):
            from cutaway.quant.gpu import grouped_linear

            return "triton", lambda x: grouped_linear(x, panels, rows, bias)

        def run(x: Tensor) -> Tensor:  # the weight is made anew each time: it takes four times the memory of the panels
            weight_NK = dequantize(codes_of(panels, rows, width), scales_of(panels, rows))
            return rounded_product(x, weight_NK, bias)

        return "torch float32", run


class LLMInt8Linear(Int8Linear):
    """LLM.int8(): codes with one scale a row, outliers of the activation apart."""

    STORED = ("codes", "scale")

    def native_layer(self) -> NativeLayer:
        pooled = self.mode == "llm-int8-pooled"
        rows, width = self.codes.shape
        return NativeLayer(self.codes, rows, width, self.bias, scale=self.scale, pooled=pooled)

    def torch_run(self) -> tuple[str, Run]:
        codes, scale, bias, mode = self.codes, self.scale, self.bias, self.mode
        name, product = product_for(codes)
        return name, lambda x: linear(x, codes, scale, bias, mode, product)


def as_stored(stored: Sequence[Tensor], shape: tuple[int, int], bias: Tensor | None, mode: Mode) -> Int8Linear:
    """The layer of a weight [N, K] = shape from its parts as they are stored: `stored_shapes` says which."""
    return layer_class(mode)(stored, shape, bias, mode)


def layer_class(mode: Mode) -> type[Int8Linear]:
    return GroupedLinear if mode == "int8" else LLMInt8Linear


def stored_shapes(shape: tuple[int, int], mode: Mode) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of each stored part of a weight [N, K] = shape, by its name."""
    if mode == "int8":
        return {"panels": (panels_shape(*shape), torch.int8)}
    return {"codes": (shape, torch.int8), "scale": (shape[:1], torch.float32)}


class Prepared:
    """An engine, chosen and prepared for one layer's buffers."""

    def __init__(self, layer: Int8Linear) -> None:
        self.parts, self.versions = _parts(layer)
        self.native: NativeLayer | None = None
        if layer.native:
            self.native = layer.native_layer()
            self.run = partial(
                _natively, self.native
            )  # not a method: a cycle would keep the weights of a layer that goes
        else:
            self.name, run = layer.torch_run()
            self.run = partial(_in_torch, run, layer.in_features)

    def made_of(self, layer: Int8Linear) -> bool:
        """Whether these are the buffers, unwritten since."""
        parts, versions = _parts(layer)
        return versions == self.versions and all(mine is theirs for mine, theirs in zip(self.parts, parts, strict=True))

    def engine(self) -> str:
        return self.name if self.native is None else f"native {native.isa()}"


def _natively(layer: NativeLayer, x: Tensor) -> Tensor:
    return layer(x) if x.dtype in native.DTYPES else layer(x.float()).to(x.dtype)


def _in_torch(run: Run, width: int, x: Tensor) -> Tensor:
    if x.shape[-1] != width:
        raise BadArgument(f"an input {list(x.shape)}", f"[..., {width}]", "pass what the layer before gives")
    return run(x)


def _parts(layer: Int8Linear) -> tuple[list[Any], list[Any]]:
    """The buffers and the mode, and what else is another after a write in place (which inference tensors do not count)
    or where the memory is another."""
    buffers = list(layer._buffers.values())
    return [*buffers, layer.mode], [
        (0, 0) if part is None or part.is_meta else (part.data_ptr(), 0 if part.is_inference() else part._version)
        for part in buffers
    ]


class StraightThrough(torch.autograd.Function):
    """The int8 layer forward; backward as if it were x @ weight.T: rounding the activation counts as the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Int8Linear) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return layer.ready().run(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return (grads[0].float() @ ctx.layer.weight).to(ctx.dtype), None
