"""A reader of the page: what is kept for it (its last runs and generations), and a request of it being answered.

It knows one loaded model and what an ask may use of it; it does not know sockets, threads or any ask.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cutaway.ground.errors import BadArgument
from cutaway.lm import LM

MB = 10**6
ROWS = 8  # of logits, kept for a reader


@dataclass(frozen=True)
class Limits:
    """What one server allows; the page is told. Bytes, characters, tokens, or how many."""

    characters: int = 100_000  # of a text
    tokens: int = 2048  # of a text; the model's context, if that is less
    new_tokens: int = 512
    runs: int = 4  # kept for a reader; so many generations, too
    queue: int = 32  # requests of a reader that wait or run: eight open stages ask for about 16 at once
    readers: int = 32
    message_bytes: int = 1_000_000
    memory_bytes: int = 2000 * MB  # kept for all readers together
    model_bytes: int = 8000 * MB  # of the model in the other precision, opened beside the served one
    unsent_bytes: int = 64 * MB  # for a reader that does not read: its requests wait meanwhile


class Cancelled(Exception):
    """The request is no longer wanted: a newer one took its channel, or the reader left."""


@dataclass
class Served:
    """One loaded model with what is loaded once beside it. shared: by name, for asks that keep something for all."""

    lm: LM
    loaded: str = ""  # the arguments that cutaway.load was given, as Python spells them
    limits: Limits = field(default_factory=Limits)
    shared: dict[str, Any] = field(default_factory=dict)
    kept_bytes: int = 0  # of all readers' runs and generations
    running: "Call | None" = None  # the request whose passes the model's thread runs now
    thread: threading.Thread | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)  # around what several threads count

    def check(self) -> None:
        """Raises Cancelled in the model's thread where its request is no longer wanted; interrupt.py calls it."""
        if self.running is not None and threading.current_thread() is self.thread:
            self.running.check()


Items = dict[str, tuple[Any, int]]  # by name, with the bytes of each; the one used longest ago first


class Shelf:
    """The last few runs (or generations) that a reader used, by name: r1, r2, … The others are gone.

    items: of both kinds, shared by a reader's shelves, so that the oldest of either goes where memory is short.
    """

    def __init__(self, served: Served, kind: str, items: Items) -> None:
        self.served, self.kind, self.items, self.count = served, kind, items, 0
        self.closed = False

    def keep(self, item: Any, bytes: int) -> str:
        """Its name. The oldest go where there are too many, and where memory for this one is short.

        Raises BadArgument where it does not fit even so, and Cancelled where the reader has left.
        """
        with self.served.lock:
            if self.closed:
                raise Cancelled
            self.make_space(bytes)
            self.count += 1
            name = f"{self.kind[0]}{self.count}"
            self.items[name] = (item, bytes)
            self.served.kept_bytes += bytes
            return name

    def make_space(self, bytes: int) -> None:
        """Drops old ones for so many bytes more. Raises BadArgument where they do not fit even so."""
        served, most = self.served, self.served.limits.memory_bytes
        with served.lock:
            own = self.names()
            while len(own) >= served.limits.runs:
                self.drop(own.pop(0))
            while self.items and served.kept_bytes + bytes > most:
                self.drop(next(iter(self.items)))
            if served.kept_bytes + bytes > most:
                found = f"{bytes // MB} MB more than the {served.kept_bytes // MB} MB that are kept for all readers"
                do = "ask for a shorter text, or close other tabs of this page"
                raise BadArgument(found, f"at most {most // MB} MB in all", do)

    def names(self) -> list[str]:
        """Those of this kind, the one used longest ago first."""
        with self.served.lock:
            return [name for name in self.items if name[0] == self.kind[0]]

    def grow(self, name: str, bytes: int) -> None:
        """An item takes so many bytes more. Raises as `keep`."""
        with self.served.lock:
            if self.closed:
                raise Cancelled
            item, before = self.items.pop(name)  # not to be dropped for itself
            self.served.kept_bytes -= before
            try:
                self.make_space(before + bytes)
                before += bytes
            finally:
                self.items[name] = (item, before)
                self.served.kept_bytes += before

    def __getitem__(self, name: str) -> Any:
        with self.served.lock:
            known = self.names()
            if name not in known:
                gone = name[:1] == self.kind[0] and name[1:].isdigit() and 0 < int(name[1:]) <= self.count
                found = f"the {self.kind} {name[:20]!r}, which is {'gone' if gone else 'none of this reader'}"
                expected = f"one of the last {self.served.limits.runs}: {', '.join(known) or 'none yet'}"
                raise BadArgument(found, expected, "run it again")
            self.items[name] = self.items.pop(name)  # the last one used is the last to go
            return self.items[name][0]

    def resize(self, name: str, bytes: int) -> None:
        """What it takes, now that it is known; nothing for one that is gone."""
        with self.served.lock:
            if name in self.items:
                item, before = self.items[name]
                self.items[name] = (item, bytes)
                self.served.kept_bytes += bytes - before

    def drop(self, name: str) -> None:
        """Forget one."""
        with self.served.lock:
            self.served.kept_bytes -= self.items.pop(name)[1]

    def close(self) -> None:
        """Forget all, and keep nothing from now on."""
        with self.served.lock:
            self.closed = True
            for name in self.names():
                self.drop(name)


class Reader:
    """One open page."""

    def __init__(self, served: Served) -> None:
        self.served, self.last_turn = served, 0.0  # when the model last worked for it
        items: Items = {}
        self.runs, self.generations = Shelf(served, "run", items), Shelf(served, "generation", items)
        self.logits: dict[tuple[str, int], Tensor] = {}  # of a run's position, once they were looked at

    def logits_of(self, run: str, position: int) -> Tensor:
        """The logits [V] after a position of a run; the last few are kept. Raises BadArgument for one that is gone."""
        kept = self.runs[run]
        with self.served.lock:
            logits_V = self.logits.get((run, position))
        if logits_V is None:
            logits_V = kept.logits_at(position)  # without the lock: a product with the whole vocabulary
            with self.served.lock:
                self.logits[run, position] = logits_V
                while len(self.logits) > ROWS:
                    self.logits.pop(next(iter(self.logits)))
        return logits_V

    def close(self) -> None:
        """The page is gone: nothing is kept for it."""
        self.runs.close()
        self.generations.close()
        with self.served.lock:
            self.logits.clear()


class Call:
    """One request being answered: what an ask is given.

    lm: the model. runs, generations: what is kept for this reader: `call.runs.keep(run, bytes)` names it,
    `call.runs[name]` has it again. Every pass of the model ends by itself (Cancelled) when the request is cancelled;
    an ask that computes long between passes calls `check`.
    """

    def __init__(self, reader: Reader, id: int, tell: Callable[[int, int, str], None]) -> None:
        self.reader, self.id, self.tell = reader, id, tell
        self._cancelled = threading.Event()

    @property
    def lm(self) -> LM:
        return self.reader.served.lm

    @property
    def served(self) -> Served:
        return self.reader.served

    @property
    def limits(self) -> Limits:
        return self.reader.served.limits

    @property
    def runs(self) -> Shelf:
        return self.reader.runs

    @property
    def generations(self) -> Shelf:
        return self.reader.generations

    def cancel(self) -> None:
        """The request ends at its next check, pass or block."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def check(self) -> None:
        """Raises Cancelled where the request is no longer wanted."""
        if self.cancelled:
            raise Cancelled

    def progress(self, done: int, total: int, what: str) -> None:
        """Tell the page how far it is; the `progress` of lm's methods."""
        self.check()
        self.tell(done, total, what)

    def text(self, text: str) -> str:
        """A text of the page. Raises BadArgument where it is longer than is allowed, or empty."""
        most = self.limits.characters
        if not text or len(text) > most:
            found = f"a text of {len(text):,} characters" if text else "an empty text"
            raise BadArgument(
                found, f"1 to {most:,} characters", "write a shorter text" if text else "write a few words"
            )
        return text
