"""The worker of one model: one thread that runs the readers' requests in turns, and one beside it for what is kept.

A turn is as many answers of one request as begin within TURN seconds. A generation answers token by token, so others
come between; an ask of one answer is one turn however many passes it takes, and `damage` takes one for each layer: the
others wait for it, until it is done or cancelled. The reader whose last turn is longest ago is next. It does not know
sockets, nor any ask.
"""

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cutaway.apps.server import wire
from cutaway.apps.server.asks import ASKS, Answer
from cutaway.apps.server.interrupt import interruptible
from cutaway.apps.server.outbox import Outbox
from cutaway.apps.server.session import Call, Cancelled, Served
from cutaway.ground.errors import BadArgument, CutawayError
from cutaway.quant.threads import one_thread

TURN = 0.05  # seconds: about ten tokens of a small model; each turn begins with the engine's look at another cache
BESIDE = 2  # threads for what runs no pass


class Job:
    """A request with its answers, as far as they are made. ended: called once it is over, for whatever reason."""

    def __init__(
        self, call: Call, outbox: Outbox, ask: str, arguments: dict[str, Any], ended: Callable[["Job"], None]
    ) -> None:
        self.call, self.outbox, self.ask, self.arguments, self.ended = call, outbox, ask, arguments, ended
        self.answers: Iterator[Answer] | None = None  # None until its first turn
        self.last_turn, self.told = 0.0, -1

    def advance(self) -> bool:
        """The next answer, sent; False after the last."""
        self.call.check()
        if self.answers is None:
            made = ASKS[self.ask].function(self.call, **self.arguments)
            self.answers = iter([made]) if isinstance(made, Answer) else made
        answer = next(self.answers, None)
        if answer is None:
            return False
        self.call.check()
        data = answer.data | ({"python": answer.python} if answer.python else {})
        self.outbox.put(wire.frame(self.call.id, data, answer.arrays, last=answer.last))
        return not answer.last

    def close(self) -> None:
        """What it holds is freed."""
        close = getattr(self.answers, "close", None)
        if close is not None:
            close()
        self.ended(self)


class Worker:
    """Runs jobs until it is closed. `submit` and `cancel` may be called by any thread."""

    def __init__(self, served: Served) -> None:
        self.served, self.jobs, self.running, self.closed = served, list[Job](), None, False
        self.condition = threading.Condition()
        self.beside = ThreadPoolExecutor(BESIDE, "cutaway-beside")
        interruptible(served.lm.decoder, served.check)
        self.thread = served.thread = threading.Thread(target=self._work, name="cutaway-model", daemon=True)
        self.thread.start()

    def submit(self, job: Job) -> None:
        """Run it in its turn; what needs no pass, at once beside the others."""
        if ASKS[job.ask].beside:
            self.beside.submit(self._beside, job)
            return
        with self.condition:
            self.jobs.append(job)
            self.condition.notify()
        self._tell()

    def cancel(self, job: Job) -> None:
        """It ends: one that waits at once, the one that runs at its next block."""
        job.call.cancel()
        with self.condition:
            waiting = job in self.jobs and job is not self.running
            if waiting:
                self.jobs.remove(job)
        if waiting:
            self._end(job, wire.note(job.call.id, cancelled=True))
        self._tell()

    def wake(self) -> None:
        """A reader has read what waited for it."""
        with self.condition:
            self.condition.notify()

    def close(self) -> None:
        """No job runs after this."""
        with self.condition:
            self.closed = True
            for job in self.jobs:
                job.call.cancel()
            self.condition.notify()
        self.beside.shutdown(wait=False, cancel_futures=True)
        self.thread.join(5)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            self.served.running = job.call
            try:
                done = self._turn(job)
            except Exception as error:
                done = self._failed(job, error)
            self.served.running = None
            with self.condition:
                self.running = None
                job.last_turn = job.call.reader.last_turn = time.monotonic()
                if done is None and job.call.cancelled:
                    done = wire.note(job.call.id, cancelled=True)
                if done is not None:
                    self.jobs.remove(job)
            if done is not None:
                self._end(job, done)
            self._tell()

    def _next(self) -> Job | None:
        """The job whose turn it is; those of a reader that does not read wait. None once the worker is closed."""
        with self.condition:
            while not self.closed:
                ready = [job for job in self._in_order() if not job.outbox.full]
                if ready:
                    self.running = ready[0]
                    return ready[0]
                self.condition.wait()
        return None

    def _in_order(self) -> list[Job]:
        """The reader whose last turn is longest ago first, and of its jobs the one that waited longest."""
        return sorted(self.jobs, key=lambda job: (job.call.reader.last_turn, job.last_turn))

    def _turn(self, job: Job) -> str | None:
        """None while it goes on; "" after its last answer."""
        end = time.monotonic() + TURN
        while job.advance():
            if time.monotonic() > end or job.outbox.full:
                return None
        return ""

    def _beside(self, job: Job) -> None:
        try:
            with one_thread(0):
                while job.advance():
                    pass
            self._end(job, "")
        except Exception as error:
            self._end(job, self._failed(job, error))

    def _failed(self, job: Job, error: Exception) -> str:
        """What the reader is told."""
        if isinstance(error, Cancelled) or job.call.cancelled:
            return wire.note(job.call.id, cancelled=True)
        return wire.error(job.call.id, error if isinstance(error, CutawayError) else bug(error))

    def _end(self, job: Job, message: str) -> None:
        job.close()
        if message:
            job.outbox.put(message)

    def _tell(self) -> None:
        """Its place in the queue to each that has had no turn yet, where it changed."""
        with self.condition:
            ordered = self._in_order()
            waiting = [job for job in ordered if job.answers is None and job is not self.running]
        for job in waiting:
            place = ordered.index(job) + (
                self.running is not None and self.running not in ordered[: ordered.index(job)]
            )
            if place != job.told and place > 0:
                job.told = place
                job.outbox.put(wire.note(job.call.id, queue=place), needed=False)


def bug(error: Exception) -> CutawayError:
    """An error that is none of the reader's; its traceback is for the server's terminal."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return BadArgument("too little memory for this", "a smaller request", "ask for a shorter text")
    traceback.print_exception(error)
    first = next(iter(str(error).splitlines()), "no message")[:200]
    return BadArgument(
        f"a bug ({type(error).__name__}: {first})", "an answer", "report what the server's terminal says"
    )
