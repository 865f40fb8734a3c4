"""The application: the page at /, the readers' sockets at /ws, and the worker of the model behind them.

It does not know how it is served, nor any ask: each file of asks/ adds its own to the table.
"""

import pkgutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from cutaway.apps.server import asks
from cutaway.apps.server.connection import Connection
from cutaway.apps.server.guard import Guard
from cutaway.apps.server.page import FOLDER, Page
from cutaway.apps.server.session import Served
from cutaway.apps.server.worker import Worker

UNGREETED = 16  # sockets whose token is not known yet: a page greets at once, so the oldest makes way


def application(served: Served, guard: Guard, folder: Path = FOLDER) -> Starlette:
    """The page and its sockets for one loaded model."""
    for module in pkgutil.iter_modules(asks.__path__):
        import_module(f"{asks.__name__}.{module.name}")
    worker, sockets, readers = Worker(served), dict[Connection, None](), set[Connection]()

    async def socket(websocket: WebSocket) -> None:
        """One reader. A foreign Host or Origin gets no socket, but a sentence."""
        headers = websocket.headers
        refused = guard.refusal(headers.get("host"), headers.get("origin"), page=True)
        if refused is not None:
            await websocket.send_denial_response(PlainTextResponse(f"{refused}\n", 403))
            return
        connection = Connection(websocket, worker, guard, readers)
        silent = [each for each in sockets if each not in readers and not each.outbox.closed]  # the oldest is first
        if len(silent) >= UNGREETED:
            silent[0].leave()
        sockets[connection] = None
        try:
            await websocket.accept()
            await connection.run()
        finally:
            del sockets[connection]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        for connection in list(sockets):
            connection.leave()
        worker.close()

    app = Starlette(
        routes=[WebSocketRoute("/ws", socket), Route("/{path:path}", Page(guard, folder).answer)], lifespan=lifespan
    )
    app.state.readers, app.state.worker = readers, worker
    return app
