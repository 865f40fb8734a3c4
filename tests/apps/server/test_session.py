"""What is kept for a reader: by several threads at once, and to the last byte that is counted."""

import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch

from cutaway.apps.server import session
from cutaway.apps.server.asks import precision, writing  # noqa: F401  they fill the table
from cutaway.apps.server.session import Cancelled, Limits, Reader, Served
from cutaway.ground.errors import BadArgument
from cutaway.lm import LM
from tests.apps.server.test_reading import TEXT, Page


class Row:
    """A run that knows its logits alone."""

    def logits_at(self, position: int) -> torch.Tensor:
        return torch.full((1,), float(position), device="cpu", dtype=torch.float32)


def test_threads_beside_the_model_s_find_a_run_or_are_told_that_it_is_gone(
    int8: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "ROWS", 2)
    reader, wrong, done = Reader(Served(int8, limits=Limits(runs=2, memory_bytes=10))), list[Exception](), 0
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def repeatedly(act: Callable[[int], object]) -> None:
        nonlocal done
        try:
            for number in range(3000):
                with suppress(BadArgument):
                    act(number)
        except Exception as error:
            wrong.append(error)
        done += 1

    def look(number: int) -> None:
        position = number % 5
        assert reader.logits_of(f"r{reader.runs.count}", position) == position

    acts = [lambda _: reader.runs.keep(Row(), 4), look, look, lambda _: reader.runs.make_space(8)]
    threads = [threading.Thread(target=repeatedly, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    sys.setswitchinterval(before)
    assert not wrong and done == len(threads) and len(reader.logits) <= 2
    assert reader.served.kept_bytes == 4 * len(reader.runs.items)


def test_a_cancelled_compare_keeps_nothing(int8: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(int8)
    page("run", text=TEXT)
    page("full")
    before, other = page.served.kept_bytes, precision._other(page.call)

    def cancelled(*args: object, **more: object) -> None:
        raise Cancelled

    with monkeypatch.context() as patched:
        patched.setattr(other, "view", cancelled, raising=False)
        with pytest.raises(Cancelled):
            page("compare", run="r1")
    assert page.served.kept_bytes == before
    page("compare", run="r1")
    assert page.served.kept_bytes == before + page.call.runs["r1"].nbytes


def test_the_oldest_of_either_kind_goes_where_memory_is_short(int8: LM) -> None:
    reader = Reader(Served(int8, limits=Limits(memory_bytes=10)))
    reader.generations.keep("first", 4)
    reader.runs.keep("second", 4)
    reader.generations["g1"]
    reader.runs.keep("third", 6)
    assert list(reader.runs.items) == ["g1", "r2"] and reader.served.kept_bytes == 10
    with pytest.raises(BadArgument, match="the run 'g1', which is none of this reader"):
        reader.runs["g1"]
