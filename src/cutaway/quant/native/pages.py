"""Memory for large results: chunks of huge pages, pooled, since the system clears every new page before it gives it.

A chunk returns to the pool when its last view is freed; the system may reclaim its pages at any time. It knows
bytes; it does not know what lies in them.
"""

import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from weakref import finalize

import torch
from torch import Tensor

from cutaway.quant.native.malloc import MAPPED

PAGE = 2 << 20  # bytes
LARGE = 8 << 20  # bytes, of which a page that is used in part is little
pooled: list[mmap.mmap] = []
given: set[int] = set()  # addresses of the tensors that have a chunk of their own
Take = Callable[[Sequence[int], torch.dtype], Tensor]
_take: ContextVar[Take | None] = ContextVar("take", default=None)
available = hasattr(mmap, "MADV_HUGEPAGE")


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """A tensor not yet written, of the dtype and on the device of another."""
    count = math.prod(shape)
    nbytes = count * like.element_size()
    if nbytes < LARGE or not (available and like.is_cpu):
        return like.new_empty(shape)
    memory = chunk(nbytes)
    value = torch.frombuffer(memory, dtype=like.dtype, count=count)
    given.add(value.data_ptr())
    finalize(memory, given.discard, value.data_ptr()).atexit = False
    return value.view(tuple(shape))


@contextmanager
def recorded_into(take: Take) -> Iterator[None]:
    """Within it `recorded` takes its memory there, on this thread."""
    token = _take.set(take)
    try:
        yield
    finally:
        _take.reset(token)


def recorded(shape: Sequence[int], like: Tensor) -> Tensor:
    """`empty` for a value that is recorded: in the recorder's memory, where that is open, so that it is not copied."""
    take = _take.get()
    return empty(shape, like) if take is None else take(shape, like.dtype)


def alone(value: Tensor) -> bool:
    """Whether a tensor is large and all that lies in its memory, which nothing else takes while the tensor lives."""
    storage = value.untyped_storage()
    if not value.is_contiguous() or storage.nbytes() != value.nbytes:
        return False
    return value.nbytes >= MAPPED or storage.data_ptr() in given


def chunk(nbytes: int) -> memoryview:
    """At least so many bytes, from the pool where one fits. Raises OSError where there is no memory."""
    size = -(-nbytes // PAGE) * PAGE
    for candidate in sorted(pooled, key=len):
        if size <= len(candidate) <= 2 * size and _taken(candidate):
            return _view(candidate)
    # A new one replaces pooled ones that did not fit: the pool never grows past what was once in use.
    left = size
    for candidate in tuple(pooled):
        if left > 0 and _taken(candidate):
            left -= len(candidate)
    try:
        new = _mapped(size)
    except OSError:
        if not pooled:
            raise
        pooled.clear()
        new = _mapped(size)
    _advise(new, mmap.MADV_HUGEPAGE)
    return _view(new)


def _taken(candidate: mmap.mmap) -> bool:
    """Whether it was still in the pool: another thread may be faster."""
    try:
        pooled.remove(candidate)
    except ValueError:
        return False
    return True


def _mapped(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _view(memory: mmap.mmap) -> memoryview:
    view = memoryview(memory)
    finalize(view, _release, memory).atexit = False
    return view


def _release(memory: mmap.mmap) -> None:
    _advise(memory, mmap.MADV_FREE)
    pooled.append(memory)


def _advise(memory: mmap.mmap, advice: int) -> None:
    with suppress(OSError):  # a system without it gives the same memory, more slowly
        memory.madvise(advice)
