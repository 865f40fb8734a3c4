"""Many readers at once: turns, the queue, newer requests in place of older ones, and all freed when a reader leaves."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cutaway.apps.server import asks, worker
from cutaway.apps.server.asks import Answer, ask
from cutaway.apps.server.session import Call
from cutaway.lm import LM

from .conftest import LIMITS, Reader, Serving, opened, serving

LONG = "the cat sat on the mat, the dog ran to the cat; " * 40


def soon(true: Callable[[], bool], seconds: float = 1.0) -> bool:
    """Whether it becomes true within that time."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def slow(running: Serving, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An ask "slow" whose passes never end by themselves; set when one has begun."""
    began = threading.Event()

    @ask("slow")
    def forever(call: Call, *, blocks: bool = False) -> Answer:
        tokens = call.lm.tokens(LONG)
        began.set()
        while True:
            with torch.inference_mode():
                call.lm.decoder(tokens)

    monkeypatch.setitem(asks.ASKS, "slow", asks.ASKS.pop("slow"))
    return began


def idle(running: Serving) -> bool:
    work = running.app.state.worker
    return not work.jobs and work.running is None


def test_20_readers_write_their_own_texts(running: Serving, plain: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)  # 20 readers' threads are in this process: each would keep the server's for 5 ms
    prompts = [f"the {'cat dog mat'.split()[n % 3]} {'sat ran on to'.split()[n % 4]} {n}" for n in range(20)]
    with ExitStack() as stack:
        readers = [stack.enter_context(running.reader()) for _ in prompts]
        ids = [
            reader.ask("generate", text=text, max_new_tokens=64) for reader, text in zip(readers, prompts, strict=True)
        ]
        for reader, id, prompt in zip(readers, ids, prompts, strict=True):
            frames = reader.until(id)
            steps = [frame["answer"]["step"] for frame in frames[1:-1]]
            assert "".join(step["text"] for step in steps) == frames[-1]["answer"]["text"] and len(steps) == 64
            assert frames[-1]["answer"]["text"] == plain.generate(prompt, max_new_tokens=64).text
        assert 0 < running.served.kept_bytes <= LIMITS.memory_bytes
    sys.setswitchinterval(before)
    assert soon(lambda: running.served.kept_bytes == 0)


def test_readers_take_turns_and_are_told_their_place(
    running: Serving, slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "TURN", 0.0)
    with running.reader() as one, running.reader() as other:
        first = one.ask("generate", text="the cat", max_new_tokens=400)
        assert one.message()["id"] == first
        second = other.ask("generate", text="the dog", max_new_tokens=4)
        frames = other.until(second)
        assert "text" in frames[-1]["answer"]
        assert any(job.call.id == first for job in running.app.state.worker.jobs)  # the longer one still runs
        one.ask("cancel", which=first)
        stuck = other.ask("slow")
        assert slow.wait(5)
        waiting = one.ask("generate", text="the cat", max_new_tokens=2)
        while (message := one.message())["id"] != waiting:
            pass
        assert message == {"id": waiting, "queue": 1}
        other.ask("cancel", which=stuck)
        assert other.until(stuck) == [{"id": stuck, "cancelled": True}]
        assert "text" in one.until(waiting)[-1]["answer"]


def test_a_newer_request_ends_the_older_one_inside_its_pass(running: Serving, slow: threading.Event) -> None:
    with running.reader() as reader:
        old = reader.ask("slow", channel="river")
        assert slow.wait(5)
        queued = reader.ask("generate", text="a", max_new_tokens=400, channel="text")
        newest = reader.ask("generate", text="the cat", max_new_tokens=3, channel="text")
        began = time.monotonic()
        newer = reader.ask("generate", text="the dog", max_new_tokens=3, channel="river")
        ended = {}
        while len(ended) < 4:
            message = reader.message()
            if message.get("last") or "cancelled" in message:
                ended[message["id"]] = message.get("cancelled", False)
        assert ended == {old: True, queued: True, newest: False, newer: False}
        assert time.monotonic() - began < 1


@pytest.mark.parametrize("ask_for", [{"name": "slow"}, {"name": "generate", "text": LONG, "max_new_tokens": 400}])
def test_a_killed_reader_s_work_and_memory_are_free_within_a_second(
    running: Serving, slow: threading.Event, ask_for: dict
) -> None:
    with running.reader() as reader:
        reader.answer("generate", text="the cat", max_new_tokens=4)
        reader.ask(**ask_for)
        if ask_for["name"] == "slow":
            assert slow.wait(5)
        assert soon(lambda: not idle(running)) and running.served.kept_bytes > 0
        reader.socket.socket.shutdown(2)  # as where its process is killed: no closing handshake
        assert soon(lambda: idle(running) and running.served.kept_bytes == 0 and not running.app.state.readers)


def test_a_reader_who_does_not_read_holds_little_and_nobody_up(
    running: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    @ask("big")
    def big(call: Call) -> Iterator[Answer]:
        for number in range(100):
            made.append(number)
            yield Answer({"number": number}, {"zeros": torch.zeros(250_000)}, last=number == 99)

    monkeypatch.setitem(asks.ASKS, "big", asks.ASKS.pop("big"))
    with running.reader(max_queue=1) as lazy, running.reader() as other:
        id = lazy.ask("big")
        (box,) = [c.outbox for c in running.app.state.readers if soon(lambda: c.outbox.full, 3)]  # noqa: B023
        for _ in range(3):
            other.answer("generate", text="the dog", max_new_tokens=16)
        assert box.bytes < LIMITS.unsent_bytes + 1_100_000 and len(made) < 60
        numbers = [frame["answer"]["number"] for frame in lazy.until(id)]
        assert numbers == made == list(range(100))


def test_each_limit_says_its_sentence(tiny: Path) -> None:
    limits = replace(LIMITS, readers=2, queue=2, runs=2, memory_bytes=1_000_000)
    with serving(opened(tiny), limits) as running, running.reader() as one, running.reader() as two:
        with running.reader(hello=False) as third:
            third.ask("hello")
            assert third.message()["error"]["found"] == "2 readers"
        ids = [one.ask("generate", text="the cat", max_new_tokens=512) for _ in range(3)]
        assert one.until(ids[2])[-1]["error"]["found"] == "2 requests that wait or run"
        for id in ids[:2]:
            one.ask("cancel", which=id)
        assert soon(lambda: idle(running))
        said = two.error("generate", text="the dog " * 260, max_new_tokens=512)
        assert "expected at most 1 MB in all" in said
        for _ in range(4):
            two.answer("generate", text="the cat", max_new_tokens=3)
        assert "'g1', which is gone; expected one of the last 2: g3, g4" in two.error(
            "fork", generation="g1", step=0, token=1
        )


def test_a_bug_is_a_sentence_and_the_server_goes_on(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @ask("broken")
    def broken(call: Call) -> Answer:
        raise RuntimeError("a broken part\nof it")

    monkeypatch.setitem(asks.ASKS, "broken", asks.ASKS.pop("broken"))
    assert reader.error("broken").startswith("found a bug (RuntimeError: a broken part)")
    assert "Traceback" in capsys.readouterr().err
    assert json.dumps(reader.answer("generate", text="the cat", max_new_tokens=1)["answer"]["text"])
