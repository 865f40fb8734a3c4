"""Quantizing while loading: rows of a checkpoint become codes in their final buffers, a chunk of rows at a time.

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
THEIR_NAMES = {"lm_head": "unembed.head"}  # transformers' name


class MappedEmbedding(nn.Embedding):
    """An embedding table mapped from its file: a row is read when its token is looked up."""

    def __init__(self, weight_VE: Tensor, dtype: torch.dtype) -> None:
        rows, width = weight_VE.shape
        super().__init__(rows, width, _weight=weight_VE, _freeze=True)
        self.dtype = dtype

    def forward(self, input: Tensor) -> Tensor:
        """Rows of ids [B, T] → [B, T, E] in the dtype of the computation."""
        return super().forward(input).to(self.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """A pickle holds the table only, not the whole mapped file."""
        return self.__dict__ | {"_parameters": {"weight": pack(self.weight)}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        table = unpack(state["_parameters"]["weight"])
        assert table is not None, "an embedding has its table"
        super().__setstate__(state | {"_parameters": {"weight": nn.Parameter(table, requires_grad=False)}})


class QuantizingLoader:
    """Quantizes a decoder's linear layers from a checkpoint's tensors, which are read in any order.

    keep: modules that stay in full precision, by our name or by transformers' ("lm_head"). Raises BadArgument for an
    unknown mode or module.
    """

    def __init__(self, decoder: Decoder, mode: str, keep: Iterable[str], device: torch.device | str) -> None:
        check_mode(mode)
        self.mode: Mode = mode  # type: ignore[assignment]
        self.device = device
        excluded = {THEIR_NAMES.get(name, name) for name in keep}
        layers = {n: m for n, m in decoder.named_modules() if isinstance(m, nn.Linear) and "project_" not in n}
        if not excluded <= layers.keys():
            wrong = sorted(excluded - layers.keys())[0]
            expected = "lm_head, or a name such as blocks.0.mlp.down"
            raise BadArgument(f"keep={wrong!r}", expected, "name a linear layer of this model")
        self.layers = {name: layer for name, layer in layers.items() if name not in excluded}
        buffers = adjacent_buffers([layer.weight.numel() for layer in self.layers.values()], device)
        self.buffers = dict(zip(self.layers, buffers, strict=True))
        self.parts: dict[str, tuple[Tensor, Tensor]] = {}

    def quantizes(self, parameter: str) -> bool:
        """Whether this parameter becomes codes."""
        name, _, leaf = parameter.rpartition(".")
        return leaf == "weight" and name in self.layers

    def load(self, parameter: str, rows: slice | None, tensor: LazyTensor, transposed: bool = False) -> None:
        """Quantize a checkpoint tensor into its rows. Raises NotFinite, naming the tensor, for NaN or infinity."""
        codes_NK, scale_N = self._parts_of(parameter.removesuffix(".weight"))
        first = 0 if rows is None else rows.start
        for start, part in row_chunks(tensor, transposed):
            target = slice(first + start, first + start + len(part))
            try:
                codes_NK[target], scale_N[target] = (x.to(self.device) for x in quantize_weight(part))
            except NotFinite as error:
                found = f"NaN or infinity in the tensor {tensor.name!r}"
                raise NotFinite(found, error.expected, error.do) from error

    def install(self, decoder: Decoder) -> None:
        """Replace the linear layers by the quantized ones."""
        for name, (codes_NK, scale_N) in self.parts.items():
            decoder.set_submodule(name, Int8Linear.from_parts(codes_NK, scale_N, self.layers[name].bias, self.mode))

    def _parts_of(self, name: str) -> tuple[Tensor, Tensor]:
        """Codes [N, K] and scales [N] of a layer."""
        if name not in self.parts:
            shape = self.layers[name].weight.shape
            scale_N = torch.empty(shape[0], dtype=torch.float32, device=self.device)
            self.parts[name] = (self.buffers[name].view(shape), scale_N)
        return self.parts[name]


def adjacent_buffers(sizes: Sequence[int], device: torch.device | str) -> list[Tensor]:
    """Uninitialized int8 tensors of these sizes in one allocation of huge pages, each aligned to a cache line.

    A decode step reads all codes once: with pages of 4 kB, TLB misses take a tenth of its time (measured on SmolLM2).
    Where the system has no huge pages, small ones serve.
    """
    lines = [-(-size // 64) * 64 for size in sizes]
    memory = torch.empty(sum(lines) + HUGE_PAGE, dtype=torch.int8, device=device)
    start = -memory.data_ptr() % HUGE_PAGE
    if memory.is_cpu and hasattr(mmap, "MADV_HUGEPAGE"):
        address, length = ctypes.c_void_p(memory.data_ptr() + start), ctypes.c_size_t(sum(lines))
        ctypes.CDLL(None).madvise(address, length, mmap.MADV_HUGEPAGE)  # advice: a refusal changes nothing
    starts = accumulate(lines, initial=start)
    return [memory[at : at + size] for at, size in zip(starts, sizes, strict=False)]


def row_chunks(tensor: LazyTensor, transposed: bool = False, at_once: int = 1 << 20) -> Iterator[tuple[int, Tensor]]:
    """Consecutive rows of a matrix with the index of the first, `at_once` bytes at a time: they fit in a core's cache.

    A transposed matrix is read in full: its rows are the file's columns.
    """
    full_NK = tensor.read().T if transposed else None
    count = tensor.shape[1] if transposed else tensor.shape[0]
    n_rows = max(1, at_once * count // max(tensor.nbytes, 1))
    for start in range(0, count, n_rows):
        rows = slice(start, min(start + n_rows, count))
        yield start, tensor.read(rows) if full_NK is None else full_NK[rows].contiguous()
