"""The server as a process: a port taken, an address printed by the caller, and an end by Ctrl-C.

The one module that imports uvicorn; its absence is one sentence. It does not know the page, nor the model.
"""

import os
import socket
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from cutaway.ground.errors import BadArgument

if TYPE_CHECKING:
    import uvicorn

    from cutaway.apps.server.session import Limits

NEEDED = ("starlette", "uvicorn", "websockets")
HARD = 4  # times the longest message that is answered in a sentence: a longer one ends the socket


def require_installed() -> None:
    """Raises BadArgument where the extra of the page is not installed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        found = f"no {', no '.join(missing)} in this Python ({sys.executable})"
        raise BadArgument(found, "what the page is served with", 'run pip install "cutaway[web]"')


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes any free one. Raises BadArgument where it cannot."""
    if not 0 <= port < 65536:
        raise BadArgument(f"port={port}", "0 to 65535", "pass port=0 for any free one")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        number = error.errno or 0  # below 0: the name is not known
        why = (os.strerror(number) if number > 0 else error.strerror or str(error)).lower()
        do = "pass port=0 for any free one, or end the program that has it"
        raise BadArgument(f"{host} port {port}, which cannot be listened to ({why})", "a free port", do) from error


def server(app: Any, limits: "Limits", started: Callable[[], None]) -> "uvicorn.Server":
    """What serves: `.run([listener])`, until Ctrl-C or `.should_exit`. started: called once readers can come."""
    import uvicorn

    class Server(uvicorn.Server):
        """uvicorn's, which says when it is up."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started()

    config = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, proxy_headers=False, lifespan="on",
        ws="websockets-sansio", ws_max_size=HARD * limits.message_bytes, ws_per_message_deflate=False,
        ws_ping_interval=20, ws_ping_timeout=20, limit_concurrency=8 * limits.readers, timeout_graceful_shutdown=2,
    )  # fmt: skip
    return Server(config)
