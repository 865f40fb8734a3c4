"""What the tests of eight bits measure errors with, and what they change of the process and put back."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from cutaway.quant import native


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
