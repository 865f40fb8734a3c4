"""Quantizing on the way: checkpoint rows become codes in their final place, a block of rows at a time.

It does not know file formats or families, nor the arithmetic of the codes (quant/int8.py).
"""

import ctypes
import mmap
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.ground.errors import BadArgument, NotFinite
from cutaway.model.decoder import Decoder
from cutaway.model.packed import pack, unpack
from cutaway.quant.int8 import Mode, check_mode, quantize_weight
from cutaway.quant.linear import Int8Linear
from cutaway.weights.files.lazy import LazyTensor

HUGE_PAGE = 2 << 20
THEIR_NAMES = {"lm_head": "unembed.head"}  # what users of transformers call it


class MappedEmbedding(nn.Embedding):
    """An embedding table that stays in its file: a row comes into memory when its token is met."""

    def __init__(self, weight_VE: Tensor, dtype: torch.dtype) -> None:
        rows, width = weight_VE.shape
        super().__init__(rows, width, _weight=weight_VE, _freeze=True)
        self.dtype = dtype

    def forward(self, input: Tensor) -> Tensor:
        """Rows of ids [B, T] → [B, T, E] in the dtype of the computation."""
        return super().forward(input).to(self.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """A pickle has the table alone, not the file that it lies in."""
        return self.__dict__ | {"_parameters": {"weight": pack(self.weight)}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        table = unpack(state["_parameters"]["weight"])
        assert table is not None, "an embedding has its table"
        super().__setstate__(state | {"_parameters": {"weight": nn.Parameter(table, requires_grad=False)}})


class Codes:
    """The layers of a decoder that are to be quantized, and their codes while they come in.

    keep: modules that stay in full precision, by our name or as transformers calls them ("lm_head"). Raises
    BadArgument for an unknown mode or module.
    """

    def __init__(self, decoder: Decoder, mode: str, keep: Iterable[str], device: torch.device | str) -> None:
        check_mode(mode)
        self.mode: Mode = mode  # type: ignore[assignment]
        self.device = device
        kept = {THEIR_NAMES.get(name, name) for name in keep}
        layers = {n: m for n, m in decoder.named_modules() if isinstance(m, nn.Linear) and "project_" not in n}
        if not kept <= layers.keys():
            wrong = sorted(kept - layers.keys())[0]
            expected = "lm_head, or a name such as blocks.0.mlp.down"
            raise BadArgument(f"keep={wrong!r}", expected, "name a linear layer of this model")
        self.layers = {name: layer for name, layer in layers.items() if name not in kept}
        self.parts: dict[str, tuple[Tensor, Tensor]] = {}
        self.room = one_run([layer.weight.numel() for layer in self.layers.values()], device)

    def wants(self, parameter: str) -> bool:
        """Whether this parameter becomes codes."""
        name, _, leaf = parameter.rpartition(".")
        return leaf == "weight" and name in self.layers

    def put(self, parameter: str, rows: slice | None, tensor: LazyTensor, transposed: bool = False) -> None:
        """Quantize a checkpoint tensor into its rows. Raises NotFinite, naming the tensor, for NaN or infinity."""
        codes_NK, scale_N = self._room(parameter.removesuffix(".weight"))
        start = 0 if rows is None else rows.start
        for at, part in blocks(tensor, transposed):
            place = slice(start + at, start + at + len(part))
            try:
                codes_NK[place], scale_N[place] = (x.to(self.device) for x in quantize_weight(part))
            except NotFinite as error:
                found = f"NaN or infinity in the tensor {tensor.name!r}"
                raise NotFinite(found, error.expected, error.do) from error

    def install(self, decoder: Decoder) -> None:
        """Put the quantized layers in the places of the linear ones."""
        for name, (codes_NK, scale_N) in self.parts.items():
            decoder.set_submodule(name, Int8Linear.from_parts(codes_NK, scale_N, self.layers[name].bias, self.mode))

    def _room(self, name: str) -> tuple[Tensor, Tensor]:
        if name not in self.parts:
            shape = self.layers[name].weight.shape
            codes_NK = self.room[list(self.layers).index(name)].view(shape)
            self.parts[name] = (codes_NK, torch.empty(shape[0], dtype=torch.float32, device=self.device))
        return self.parts[name]


def one_run(sizes: Sequence[int], device: torch.device | str) -> list[Tensor]:
    """Room for int8 tensors of these sizes behind each other, each from a cache line's start, in huge pages.

    A step reads all codes once: with pages of 4 kB it spends a tenth of its time on finding them (measured on
    SmolLM2). Where the system has no huge pages the same memory comes in small ones.
    """
    lines = [-(-size // 64) * 64 for size in sizes]
    memory = torch.empty(sum(lines) + HUGE_PAGE, dtype=torch.int8, device=device)
    start = -memory.data_ptr() % HUGE_PAGE
    if memory.is_cpu and hasattr(mmap, "MADV_HUGEPAGE"):
        address, length = ctypes.c_void_p(memory.data_ptr() + start), ctypes.c_size_t(sum(lines))
        ctypes.CDLL(None).madvise(address, length, mmap.MADV_HUGEPAGE)  # advice: a refusal changes nothing
    starts = accumulate(lines, initial=start)
    return [memory[at : at + size] for at, size in zip(starts, sizes, strict=False)]


def blocks(tensor: LazyTensor, transposed: bool = False, at_once: int = 1 << 20) -> Iterator[tuple[int, Tensor]]:
    """Rows of a matrix, as many as `at_once` bytes hold, with the number of the first: they fit in a core's cache.

    A transposed one is read whole, because its rows lie in columns.
    """
    whole_NK = tensor.read().T if transposed else None
    count = tensor.shape[1] if transposed else tensor.shape[0]
    step = max(1, at_once * count // max(tensor.nbytes, 1))
    for start in range(0, count, step):
        run = slice(start, min(start + step, count))
        yield start, tensor.read(run) if whole_NK is None else whole_NK[run].contiguous()
