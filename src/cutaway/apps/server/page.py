"""The built page as answers to a browser: its files, read once, with the headers that keep it to this server.

It knows file names and headers; it does not know what the page shows. No path of a request reaches the file system.
"""

import mimetypes
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from cutaway.apps.server.guard import Guard

FOLDER = Path(__file__).parent / "page"
MISSING = (
    "found no built page in this installation of cutaway; expected one in its package; "
    "run make web in a clone of the project, or install a wheel, which carries it.\n"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "worker-src 'self' blob:; connect-src 'self' {socket}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".svg": "image/svg+xml", ".json": "application/json"}


class Page:
    """The page's files by their paths, "/" for index.html."""

    def __init__(self, guard: Guard, folder: Path = FOLDER) -> None:
        self.guard = guard
        files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
        self.files = {f"/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in files}

    async def answer(self, request: Request) -> Response:
        host = request.headers.get("host")
        refused = self.guard.refusal(host)
        if refused is not None:
            return PlainTextResponse(f"{refused}\n", 403, HEADERS)
        path = request.url.path if request.url.path != "/" else "/index.html"
        if path == "/index.html" and path not in self.files:
            return PlainTextResponse(MISSING, 503, HEADERS)
        if path not in self.files:
            return PlainTextResponse(f"found no {path[:80]!r}; expected /; open {self.guard.address}.\n", 404, HEADERS)
        suffix = Path(path).suffix
        kind = TYPES.get(suffix) or mimetypes.types_map.get(suffix, "application/octet-stream")
        policy = {"Content-Security-Policy": POLICY.format(socket=f"ws://{host}")}
        return Response(self.files[path], 200, HEADERS | policy, kind)
