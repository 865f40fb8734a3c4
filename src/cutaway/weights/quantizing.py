"""Quantizing while loading: rows of a checkpoint become codes in their final buffers, a chunk of rows at a time.

It does not know file formats or families, nor the arithmetic of the codes (quant/formats.py).
"""

import ctypes
import mmap
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.ground.errors import BadArgument, NotFinite
from cutaway.ground.layers import all_weights
from cutaway.ground.packed import pack, unpack
from cutaway.model.decoder import Decoder
from cutaway.quant.formats import Mode, check_mode, quantize_weight
from cutaway.quant.linear import as_stored, stored_shapes
from cutaway.quant.panels import write_rows
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
        table = {weight.module for weight in all_weights(decoder.config).values() if weight.kind == "linear"}
        layers = {n: m for n, m in decoder.named_modules() if isinstance(m, nn.Linear) and n in table}
        if not excluded <= layers.keys():
            wrong = sorted(excluded - layers.keys())[0]
            expected = "lm_head, or a name such as blocks.0.mlp.down"
            raise BadArgument(f"keep={wrong!r}", expected, "name a linear layer of this model")
        self.layers = {name: layer for name, layer in layers.items() if name not in excluded}
        self.shapes = {n: (layer.out_features, layer.in_features) for n, layer in self.layers.items()}
        large = [next(iter(stored_shapes(shape, self.mode).values()))[0] for shape in self.shapes.values()]
        buffers = adjacent_buffers(list(map(prod, large)), device)
        self.buffers = {n: b.view(shape) for n, b, shape in zip(self.layers, buffers, large, strict=True)}
        self.parts: dict[str, list[Tensor]] = {}

    def quantizes(self, parameter: str) -> bool:
        """Whether this parameter becomes codes."""
        name, _, leaf = parameter.rpartition(".")
        return leaf == "weight" and name in self.layers

    def load(self, parameter: str, rows: slice | None, tensor: LazyTensor, transposed: bool = False) -> None:
        """Quantize a checkpoint tensor into its rows; what is in Q8_0 already goes in as it is, where the mode has it.

        Raises NotFinite, naming the tensor, for NaN, infinity, or a value too large for its scale.
        """
        name, first = parameter.removesuffix(".weight"), 0 if rows is None else rows.start
        for start, codes_NK, scale in quantized_chunks(tensor, self.mode, transposed):
            self._put(name, first + start, codes_NK, scale)

    def install(self, decoder: Decoder) -> None:
        """Replace the linear layers by the quantized ones."""
        for name, parts in self.parts.items():
            decoder.set_submodule(name, as_stored(parts, self.shapes[name], self.layers[name].bias, self.mode))

    def _put(self, name: str, first: int, codes_NK: Tensor, scale: Tensor) -> None:
        """Codes and scales into the rows `first` and following of a layer."""
        if name not in self.parts:
            _, *rest = stored_shapes(self.shapes[name], self.mode).values()
            small = [torch.empty(shape, dtype=dtype, device=self.device) for shape, dtype in rest]
            self.parts[name] = [self.buffers[name].zero_(), *small]  # 0 also where panels have more than the weight
        parts, rows = self.parts[name], slice(first, first + len(codes_NK))
        if self.mode == "int8":
            write_rows(parts[0], first, codes_NK.to(self.device), scale.to(self.device))
        else:
            parts[0][rows], parts[1][rows] = codes_NK.to(self.device), scale.to(self.device)


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
    for rows in row_slices(tensor, tensor.shape[1] if transposed else tensor.shape[0], at_once):
        yield rows.start, tensor.read(rows) if full_NK is None else full_NK[rows].contiguous()


def quantized_chunks(tensor: LazyTensor, mode: Mode, transposed: bool = False) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Consecutive rows of a matrix in 8 bits: the index of the first, codes and scales.

    What the file has in the mode's own form comes as it is. Raises NotFinite, naming the tensor and its row.
    """
    if mode == "int8" and tensor.groups is not None and not transposed:
        for rows in row_slices(tensor, tensor.n_rows):
            yield rows.start, *tensor.read_groups(rows)
        return
    for start, part in row_chunks(tensor, transposed):
        try:
            yield start, *quantize_weight(part, mode)
        except NotFinite as error:
            what, _, where = error.found.partition(" in row ")
            axis, line = "column" if transposed else "row", start + int(where.split()[0])
            found = f"{what} in {axis} {line} of the tensor {tensor.name!r}"
            raise NotFinite(found, error.expected, error.do) from error


def row_slices(tensor: LazyTensor, count: int, at_once: int = 1 << 20) -> Iterator[slice]:
    """`count` rows in runs of about `at_once` bytes; runs of whole panels, where they are as long."""
    n_rows = max(1, at_once * count // max(tensor.nbytes, 1))
    n_rows = n_rows // 16 * 16 or n_rows
    return (slice(start, min(start + n_rows, count)) for start in range(0, count, n_rows))
