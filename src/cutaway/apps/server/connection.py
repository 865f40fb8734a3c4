"""One reader's WebSocket: messages in, answers out, and everything of the reader freed when it closes.

It knows requests and channels; it does not know what is asked, nor the model.
"""

import asyncio
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect

from cutaway.apps.server import wire
from cutaway.apps.server.asks import ASKS, checked
from cutaway.apps.server.guard import Guard
from cutaway.apps.server.outbox import Outbox
from cutaway.apps.server.session import Call, Reader
from cutaway.apps.server.worker import Job, Worker, bug
from cutaway.ground.errors import BadArgument, CutawayError
from cutaway.ground.select import nearest
from cutaway.ground.whole import whole

GREETING = 10.0  # seconds for the first message, which must be hello
FORBIDDEN, FULL = 4403, 4429  # codes of a closed socket


class Connection:
    """A socket with its reader, who is among the `readers` once greeted."""

    def __init__(self, socket: WebSocket, worker: Worker, guard: Guard, readers: set["Connection"]) -> None:
        self.socket, self.worker, self.guard, self.readers = socket, worker, guard, readers
        self.reader, self.limits = Reader(worker.served), worker.served.limits
        self.outbox = Outbox(asyncio.get_running_loop(), self.limits.unsent_bytes, worker.wake)
        self.jobs: dict[int, tuple[Job, str | None]] = {}  # requests that wait or run, with their channels
        self.newest, self.code = -1, 1000

    async def run(self) -> None:
        """Until the reader leaves."""
        sending = asyncio.create_task(self._send())
        receiving = asyncio.create_task(self._receive())
        try:
            await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.leave()
            receiving.cancel()
            with suppress(Exception):
                await asyncio.wait_for(sending, 1)  # a last sentence may still go out
            sending.cancel()
            for error in await asyncio.gather(sending, receiving, return_exceptions=True):
                if isinstance(error, Exception):
                    bug(error)  # told in the server's terminal
            with suppress(Exception):
                await self.socket.close(self.code)

    def leave(self) -> None:
        """All work of the reader ends, and nothing is kept for it."""
        self.outbox.close()
        for job, _ in list(self.jobs.values()):
            self.worker.cancel(job)
        self.reader.close()
        self.readers.discard(self)

    async def _send(self) -> None:
        with suppress(WebSocketDisconnect, RuntimeError):
            while (message := await self.outbox.take()) is not None:
                await (
                    self.socket.send_bytes(message) if isinstance(message, bytes) else self.socket.send_text(message)
                )

    async def _receive(self) -> None:
        with suppress(WebSocketDisconnect, TimeoutError):
            async with asyncio.timeout(GREETING):
                text = await self._message()
            self._handle(text)
            while self in self.readers:
                await self.outbox.space()  # who does not read is not read either
                self._handle(await self._message())

    async def _message(self) -> str | None:
        """The next message; None for one that is no text."""
        received = await self.socket.receive()
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        return received.get("text")

    def _greet(self, request: wire.Request) -> None:
        """Take in a reader. Raises BadArgument for a first message that is no hello with the right token."""
        self.code, most = FORBIDDEN, self.limits.readers
        if request.ask != "hello" or not self.guard.knows(request.arguments.get("token")):
            found = f"the ask {request.ask[:40]!r} first" if request.ask != "hello" else "a wrong token, or none"
            do = f"open {self.guard.address} with the token that cutaway printed"
            raise BadArgument(found, "hello, with this server's token" if self.guard.token else "hello", do)
        if len(self.readers) >= most:
            self.code = FULL
            raise BadArgument(f"{most} readers", f"at most {most} at once", "close a tab, or come back later")
        self.readers.add(self)
        self.code = 1000

    def _handle(self, text: str | None) -> None:
        id = None
        try:
            request = self._read(text)
            if self not in self.readers:
                self._greet(request)
            id = request.id
            self._ask(request)
        except Exception as error:
            self.outbox.put(wire.error(id, error if isinstance(error, CutawayError) else bug(error)))

    def _read(self, text: str | None) -> wire.Request:
        if text is None:
            raise BadArgument("a message of bytes", "text in JSON", "send requests as text")
        if len(text) > self.limits.message_bytes:
            expected = f"at most {self.limits.message_bytes:,}"
            raise BadArgument(f"a message of {len(text):,} characters", expected, "send a shorter text")
        return wire.read(text)

    def _ask(self, request: wire.Request) -> None:
        """Start a request, which takes the place of an older one of its channel. Raises BadArgument."""
        if request.ask == "cancel":
            which = whole(request.arguments.get("which"))
            for id in [id for id in list(self.jobs) if id == which]:
                self.worker.cancel(self.jobs[id][0])
            return
        if request.ask not in ASKS:
            expected = f"one that this server knows, such as {nearest(request.ask[:40], list(ASKS))}"
            raise BadArgument(f"the ask {request.ask[:40]!r}", expected, "correct the name")
        if request.id <= self.newest:
            found, expected = f"the request number {request.id} again", f"one above {self.newest}"
            raise BadArgument(found, expected, "number the requests upwards")
        self.newest = request.id
        said = {"token"} if request.ask == "hello" else set()  # it was read when the reader came
        arguments = checked(request.ask, {n: value for n, value in request.arguments.items() if n not in said})
        for job, channel in list(self.jobs.values()):
            if channel is not None and channel == request.channel:
                self.worker.cancel(job)
                self.jobs.pop(job.call.id, None)
        if len(self.jobs) >= self.limits.queue:
            found = f"{len(self.jobs)} requests that wait or run"
            raise BadArgument(found, f"at most {self.limits.queue} of a reader", "wait for one of them, or cancel it")
        call = Call(self.reader, request.id, self._progress(request.id))
        job = Job(call, self.outbox, request.ask, arguments, self._ended)
        self.jobs[request.id] = (job, request.channel)
        self.worker.submit(job)

    def _progress(self, id: int):
        def tell(done: int, total: int, what: str) -> None:
            about = {"done": done, "total": total, "what": what}
            self.outbox.put(wire.note(id, progress=about), needed=False)

        return tell

    def _ended(self, job: Job) -> None:
        self.jobs.pop(job.call.id, None)
