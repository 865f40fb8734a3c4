"""Many readers at once: turns, the queue, newer requests in place of older ones, and all freed when a reader leaves."""

import json
import threading
import time
from collections.abc import Callable
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


def test_20_readers_write_their_own_texts(running: Serving, plain: LM) -> None:
    prompts = [f"the {'cat dog mat'.split()[n % 3]} {'sat ran on to'.split()[n % 4]} {n}" for n in range(20)]
    texts: dict[int, str] = {}

    def read(number: int) -> None:
        with running.reader() as reader:
            frames = reader.until(reader.ask("generate", text=prompts[number], max_new_tokens=64, seed=number))
            steps = [frame["answer"]["step"] for frame in frames[1:-1]]
            assert "".join(step["text"] for step in steps) == frames[-1]["answer"]["text"] and len(steps) == 64
            texts[number] = frames[-1]["answer"]["text"]
            held.append(running.served.kept_bytes)

    held: list[int] = []
    threads = [threading.Thread(target=read, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert texts == {n: plain.generate(prompt, max_new_tokens=64).text for n, prompt in enumerate(prompts)}
    assert max(held) <= LIMITS.memory_bytes and soon(lambda: running.served.kept_bytes == 0)


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
        assert other.message() == {"id": stuck, "cancelled": True}
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
        assert not idle(running) and running.served.kept_bytes > 0
        reader.socket.socket.shutdown(2)  # as where its process is killed: no closing handshake
        assert soon(lambda: idle(running) and running.served.kept_bytes == 0 and not running.app.state.readers)


def test_a_reader_who_does_not_read_holds_little_and_nobody_up(tiny: Path) -> None:
    with serving(opened(tiny), replace(LIMITS, unsent_bytes=200_000)) as running:
        with running.reader(max_queue=1) as lazy, running.reader() as other:
            for _ in range(6):
                lazy.ask("sampling", generation="none", step=0)
            for _ in range(4):
                lazy.ask("generate", text="the cat", max_new_tokens=512)
            other.answer("generate", text="the dog", max_new_tokens=64)
            boxes = [connection.outbox for connection in running.app.state.readers]
            time.sleep(0.5)
            assert max(box.bytes for box in boxes) < 300_000
            other.answer("generate", text="the dog", max_new_tokens=64)


def test_each_limit_says_its_sentence(tiny: Path) -> None:
    limits = replace(LIMITS, readers=2, queue=2, runs=2, memory_bytes=3_000_000)
    with serving(opened(tiny), limits) as running, running.reader() as one, running.reader() as two:
        with running.reader(hello=False) as third:
            assert third.message()["error"]["found"] == "2 readers"
        ids = [one.ask("generate", text="the cat", max_new_tokens=512) for _ in range(3)]
        assert one.until(ids[2])[-1]["error"]["found"] == "2 requests that wait or run"
        for id in ids[:2]:
            one.ask("cancel", which=id)
        assert soon(lambda: idle(running))
        said = two.error("generate", text="the dog " * 200, max_new_tokens=512)
        assert "expected at most 3 MB in all" in said
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
