"""Layers and inputs for the tests of eight bits, made from a seed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from cutaway.quant import native
from cutaway.quant.int8 import quantize_weight


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def layer(n: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """codes, scale, bias."""
    codes, scale = quantize_weight(noise(n, k, seed=seed))
    return codes, scale, noise(n, seed=seed + 1)


def relative(mine: Tensor, theirs: Tensor) -> float:
    """The largest error of a row against that row's norm."""
    error = (mine.double() - theirs.double()).norm(dim=-1)
    return (error / theirs.double().norm(dim=-1).clamp(min=1e-30)).max().item()


@contextmanager
def with_isa(isa: str) -> Iterator[None]:
    native.use_isa(isa)
    try:
        yield
    finally:
        native.use_isa(None)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
