"""Who may talk to the server: the Host that a browser names, then the page it comes from, then the token.

It knows headers; it does not know sockets. A name that was rebound to this machine names itself in Host; a foreign page
names itself in Origin.
"""

import hmac
import ipaddress
import secrets
import socket
from dataclasses import dataclass

LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Guard:
    """host: where the server listens; token: what a page must know, None where only this machine can reach it."""

    host: str
    port: int
    token: str | None

    @classmethod
    def of(cls, host: str, port: int) -> "Guard":
        """With a token of its own, where other machines may reach that host."""
        return cls(host, port, None if host in LOCAL else secrets.token_urlsafe(24))

    def refusal(self, host: str | None, origin: str | None = None, *, page: bool = False) -> str | None:
        """None where the headers are right, else one sentence. page: a page asks, whose Origin must be ours."""
        if not self._ours(host):
            return f"found the Host {_short(host)}; expected {self.address}; open the address that cutaway printed."
        if page and not (origin is not None and origin.startswith("http://") and self._ours(origin[7:])):
            return f"found the Origin {_short(origin)}; expected this server's own page; open {self.address}."
        return None

    def knows(self, token: object) -> bool:
        """Whether this is the token, in a time that does not tell how much of it is right."""
        given = token if isinstance(token, str) else ""
        return self.token is None or hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())

    @property
    def address(self) -> str:
        """Where to open the page, without the token."""
        name = socket.gethostname() if self.host in ("0.0.0.0", "::", "") else self.host
        return f"http://{f'[{name}]' if ':' in name else name}:{self.port}/"

    @property
    def url(self) -> str:
        """With the token in the fragment, which a browser sends to no server."""
        return self.address + ("" if self.token is None else f"#token={self.token}")

    def _ours(self, given: str | None) -> bool:
        """Whether a "name:port" is one of this server's: its own, or, where it listens to all, any address in numbers,
        which no one can rebind."""
        given = (given or "").lower()
        bare = given.endswith("]") or ":" not in given
        name, _, port = (f"{given}:80" if bare else given).rpartition(":")  # the one port that a browser leaves out
        if port != str(self.port):
            return False
        name = name.removeprefix("[").removesuffix("]")
        if self.host in LOCAL:
            return name in LOCAL
        return name in (self.host.lower(), socket.gethostname().lower(), *LOCAL) or _is_number(name)


def _is_number(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _short(given: str | None) -> str:
    return "none" if given is None else repr(given[:80])
