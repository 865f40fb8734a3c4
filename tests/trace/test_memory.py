"""Buffers of recorded values: each with memory of its own, alone or in a chunk of a large trace."""

import mmap
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from cutaway.ground.sites import all_sites
from cutaway.quant import native
from cutaway.quant.native import pages
from cutaway.trace import memory as store
from cutaway.trace import run as passes
from cutaway.trace.memory import Memory
from cutaway.trace.run import run
from tests.tiny import batch
from tests.tiny import decoder as tiny


def test_values_of_a_large_trace_never_overlap_and_hold_what_is_written() -> None:
    shapes = [(3, 5), (1,), (7, 1 << 20), (0, 4), (1 << 20,), (9 << 20,)]  # one wider than a chunk
    memory = Memory(store.LARGE, torch.device("cpu"))
    assert memory.chunked
    values = [memory.take(shape, dtype) for shape in shapes for dtype in (torch.float32, torch.int8)]
    for number, value in enumerate(values):
        value.fill_(number)
    for number, value in enumerate(values):
        assert (value == number).all()
        assert value.data_ptr() % store.ALIGN == 0
        assert value.untyped_storage().nbytes() == value.nbytes, "it pickles alone"


@pytest.mark.skipif(not native.available, reason=f"no native library ({native.MISSING})")
@pytest.mark.parametrize("name", ["llama", "opt", "gpt2"])
def test_values_computed_right_into_the_memory_of_a_full_trace(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits of each site recorded alone, none over another, and fewer copies."""
    decoder = tiny(name, tmp_path, quantize="int8")
    tokens = batch([1 + i % 9 for i in range(20)], [7, 8, 9])
    sites, copies = [*all_sites(decoder.config)], list[str]()
    alone = {site: run(decoder, tokens, site)[site] for site in sites}
    monkeypatch.setattr(store, "LARGE", 1)  # as of a long text
    monkeypatch.setattr(passes, "copy", lambda to, value: copies.append("") or native.copy(to, value))
    trace = run(decoder, tokens)
    direct = len(sites) - len(copies)
    assert direct >= 9 * decoder.config.n_layers, "of each block two norms' and attention's three values, and the MLP's"
    spans = sorted((trace[site].data_ptr(), trace[site].nbytes) for site in sites)
    assert all(start + count <= after for (start, count), (after, _) in pairwise(spans))
    for site in sites:
        assert torch.equal(trace[site].nan_to_num(7e7), alone[site].nan_to_num(7e7)), site
    copies.clear()
    run(decoder, tokens, "blocks.*.attn.pattern")
    assert len(copies) == decoder.config.n_layers, "of some sites nothing else is held"


def test_a_value_outlives_its_trace() -> None:
    memory = Memory(store.LARGE, torch.device("cpu"))
    value, other = (memory.take((1 << 20,), torch.float32).fill_(n) for n in (1, 2))
    del memory, other
    again = Memory(store.LARGE, torch.device("cpu")).take((1 << 20,), torch.float32).fill_(3)
    assert (value == 1).all() and (again == 3).all()


def test_the_memory_of_a_trace_that_is_gone_serves_the_next() -> None:
    def where() -> set[int]:
        memory = Memory(store.LARGE, torch.device("cpu"))
        values = [memory.take((4 << 20,), torch.float32).fill_(1) for _ in range(4)]
        assert all((value == 1).all() for value in values)
        return {value.data_ptr() for value in values}

    assert where() == where()


def test_a_small_trace_s_values_hold_nothing_but_themselves() -> None:
    memory = Memory(store.LARGE - 1, torch.device("cpu"))
    assert not memory.chunked
    assert memory.take((2, 3), torch.bfloat16).untyped_storage().nbytes() == 12


def test_a_small_value_keeps_no_large_one_s_memory() -> None:
    memory = Memory(8 * store.CHUNK, torch.device("cpu"))
    large, small = (memory.take((count,), torch.int8).fill_(1) for count in (3 * store.CHUNK - 100, 7))
    before = sum(map(len, pages.pooled))
    del large
    assert sum(map(len, pages.pooled)) - before == 3 * store.CHUNK
    assert (small == 1).all()


def test_what_waits_never_grows_past_what_was_in_use() -> None:
    pages.pooled.clear()
    for chunks in (5, 3, 9, 4, 20, 2):
        Memory(chunks * store.CHUNK, torch.device("cpu")).take((chunks * store.CHUNK,), torch.int8)
        assert sum(map(len, pages.pooled)) <= 20 * store.CHUNK
    assert len(pages.pooled) < 6


def test_what_waits_is_given_back_where_the_system_has_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    Memory(4 * store.CHUNK, torch.device("cpu")).take((4 * store.CHUNK,), torch.int8)
    usual = pages._mapped

    def full(size: int) -> mmap.mmap:
        if pages.pooled:
            raise OSError("no memory")
        return usual(size)

    monkeypatch.setattr(pages, "_mapped", full)
    value = Memory(store.LARGE, torch.device("cpu")).take((10,), torch.int8)
    assert len(value) == 10 and not pages.pooled


@pytest.mark.skipif(not pages.available, reason="no huge pages")
def test_a_large_result_is_kept_as_it_is_and_a_part_of_one_is_not() -> None:
    like = torch.empty(0, dtype=torch.float32, device="cpu")
    whole = pages.empty((3, pages.LARGE // 4), like)
    assert pages.alone(whole) and pages.alone(whole.detach().view(-1))
    assert not pages.alone(whole[1]) and not pages.alone(whole.T)
    small = pages.empty((pages.LARGE // 4 - 1,), like)
    assert not pages.alone(small), "memory of the C library, which the next result needs"
    address = whole.data_ptr()
    del whole
    assert address not in pages.given
