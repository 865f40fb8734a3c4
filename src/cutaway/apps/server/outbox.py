"""What waits to be sent to one reader: filled by any thread, emptied by its socket, counted in bytes.

It does not know what the messages say.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable

Message = str | bytes


class Outbox:
    """A queue of messages. `full` when more than `most` bytes wait: what fills it is then to wait, or to be left out.

    drained: called, in the thread that takes a message, when the outbox is no longer full.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int, drained: Callable[[], None]) -> None:
        self.loop, self.most, self.drained = loop, most, drained
        self.messages: deque[Message] = deque()
        self.bytes, self.closed = 0, False
        self._lock, self._more, self._less = threading.Lock(), asyncio.Event(), asyncio.Event()

    @property
    def full(self) -> bool:
        return self.bytes > self.most

    def put(self, message: Message, needed: bool = True) -> None:
        """Send this; one that is not needed (a progress) only where the reader keeps up."""
        with self._lock:
            if self.closed or (self.full and not needed):
                return
            self.messages.append(message)
            self.bytes += _size(message)
        self._wake(self._more)

    async def take(self) -> Message | None:
        """The next message; None once it is closed and empty."""
        while True:
            with self._lock:
                if self.messages:
                    was_full, message = self.full, self.messages.popleft()
                    self.bytes -= _size(message)
                    break
                if self.closed:
                    return None
                self._more.clear()
            await self._more.wait()
        if was_full and not self.full:
            self._less.set()
            self.drained()
        return message

    async def space(self) -> None:
        """Returns once it is not full."""
        while self.full and not self.closed:
            self._less.clear()
            await self._less.wait()

    def close(self, drop: bool = False) -> None:
        """Nothing more is taken in; what waits is still sent, or dropped."""
        with self._lock:
            self.closed = True
            if drop:
                self.messages.clear()
                self.bytes = 0
        self._wake(self._more)
        self._wake(self._less)

    def _wake(self, event: asyncio.Event) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(event.set)


def _size(message: Message) -> int:
    """In bytes, as it is sent."""
    return len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())
