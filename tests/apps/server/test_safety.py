"""Who may talk to the server, what it refuses, and that nothing hostile ends it."""

import http.client
import json
import random
import socket
import struct
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from cutaway.apps.server import wire
from cutaway.apps.server.app import UNGREETED
from cutaway.apps.server.guard import Guard

from .conftest import LIMITS, Reader, Serving, opened, serving
from .test_fuzz import WRONG

HOSTILE = 1000


def fetch(running: Serving, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", running.guard.port, timeout=5)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", f"127.0.0.1:{running.guard.port}" if host is None else host)
    connection.endheaders()
    answer = connection.getresponse()
    said = answer.status, answer.read().decode(errors="replace"), {k.lower(): v for k, v in answer.getheaders()}
    connection.close()
    return said


@pytest.fixture(scope="module")
def paged(tiny: Path, tmp_path_factory: pytest.TempPathFactory):
    """A server whose page is built: two files, beside one that is none of it."""
    folder = tmp_path_factory.mktemp("built") / "page"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>cutaway</title>")
    (folder / "assets" / "app-1.js").write_text("export {}")
    (folder.parent / "secret.txt").write_text("a secret")
    with serving(opened(tiny), folder=folder) as running:
        yield running


def test_the_page_and_its_headers(paged: Serving) -> None:
    status, body, headers = fetch(paged, "/")
    assert status == 200 and "<title>cutaway" in body and headers["content-type"].startswith("text/html")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe-eval" not in policy
    assert f"connect-src 'self' ws://127.0.0.1:{paged.guard.port};" in policy and "http" not in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    status, body, headers = fetch(paged, "/assets/app-1.js")
    assert (status, body) == (200, "export {}") and headers["content-type"].startswith("text/javascript")
    assert fetch(paged, "/", method="POST")[0] == 405


@pytest.mark.parametrize("path", ["/../secret.txt", "/%2e%2e/secret.txt", "/assets/..%2f..%2fsecret.txt",
                                  "//etc/passwd", "/assets/", "/\\..\\secret.txt", "/x" * 4000])  # fmt: skip
def test_no_path_reaches_the_file_system(paged: Serving, path: str) -> None:
    status, body, _ = fetch(paged, path)
    assert status in (400, 404) and "a secret" not in body and "root:" not in body


def test_a_page_that_is_not_built_is_a_sentence(running: Serving) -> None:
    status, body, _ = fetch(running, "/")
    assert status == 503 and body.startswith("found no built page") and "make web" in body


HOSTS = [
    "evil.example", "127.0.0.1", "127.0.0.1:1", "evil.example:{port}", "localhost.:{port}", "",
    "127.0.0.1.evil.example:{port}", "[::1]", "127.0.0.1:{port}@evil",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_a_foreign_or_rebound_host_is_refused(paged: Serving, host: str) -> None:
    name = host.format(port=paged.guard.port)
    status, body, _ = fetch(paged, "/", name)
    assert status in (400, 403) and "<title>" not in body
    with pytest.raises(InvalidStatus), paged.reader(additional_headers={"Host": name}):
        pass


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "https://127.0.0.1:{port}", "http://127.0.0.1",
                                    "http://127.0.0.1:{port}.evil.example", "file://"])  # fmt: skip
def test_a_foreign_origin_is_refused(paged: Serving, origin: str | None) -> None:
    name = None if origin is None else origin.format(port=paged.guard.port)
    with pytest.raises(InvalidStatus) as refused, paged.reader(origin=name):
        pass
    assert refused.value.response.status_code == 403
    assert b"expected this server's own page" in (refused.value.response.body or b"")


def test_another_host_wants_its_token(tiny: Path) -> None:
    with serving(opened(tiny), host="0.0.0.0") as running:
        token = running.guard.token
        assert token and len(token) >= 32 and running.guard.url.endswith(f"#token={token}")
        for wrong in ("", token[:-1], token + "x", "é" * 40, None, 3, [token], {"a": token}):
            with running.reader(hello=False) as reader:
                reader.ask("hello", token=wrong)
                assert "a wrong token, or none" in reader.message()["error"]["found"]
                with pytest.raises(ConnectionClosed) as closed:
                    reader.message()
                assert closed.value.rcvd is not None and closed.value.rcvd.code == 4403
        with running.reader(hello=False) as reader:
            reader.ask("tokens", texts=["a"])  # nothing before hello
            assert reader.message()["error"]["found"] == "the ask 'tokens' first"
            with pytest.raises(ConnectionClosed):
                reader.message()
        with running.reader() as reader:
            assert reader.answer("generate", text="the cat", max_new_tokens=1)


def test_hosts_by_name() -> None:
    assert Guard.of("127.0.0.1", 5).token is None and Guard.of("::1", 5).url == "http://[::1]:5/"
    one, other = Guard.of("0.0.0.0", 5), Guard.of("0.0.0.0", 5)
    assert one.token and one.token != other.token
    assert one.refusal("192.168.1.7:5") is None and one.refusal("evil.example:5") is not None
    named = Guard.of("box.local", 5)
    assert named.refusal("box.local:5") is None and named.refusal("Box.LOCAL:5") is None and named.token
    for given in ("localhost", "[::1]", "127.0.0.1:80", "[::1]:80"):
        assert Guard.of("127.0.0.1", 80).refusal(given) is None
    assert Guard.of("127.0.0.1", 80).refusal("evil.example") is not None
    assert Guard.of("127.0.0.1", 80).refusal("[::1]:81") is not None


def odd(draw: random.Random) -> str | bytes:
    """One message that is no request, or a hostile one; test_fuzz.py sends requests."""
    kinds = [
        lambda: draw.choice(["", "{", "[]", "null", "3", '"', "[" * 5000, "{" * 50, '{"id":1}' * 2, "NaN", "\x00"]),
        lambda: draw.randbytes(draw.randrange(200)),
        lambda: "x" * (LIMITS.message_bytes + draw.randrange(1, 1000)),
        lambda: json.dumps({"id": draw.choice(WRONG), "ask": draw.choice(["generate", *map(str, WRONG)])}),
        lambda: json.dumps({"id": 10**6, "ask": draw.choice(["__class__", "eval"]), "channel": draw.choice(WRONG)}),
        lambda: json.dumps({"id": 10**6, "ask": "cancel", "which": draw.choice(WRONG)}),
        lambda: json.dumps({"id": 10**6, "ask": "generate", "text": "a" * 30_000, "edits": [draw.choice(WRONG)] * 9}),
    ]
    return draw.choice(kinds)()


def raw(running: Serving, data: bytes, half: bool) -> None:
    """Bytes on a bare socket, half-closed or torn off."""
    with socket.create_connection(("127.0.0.1", running.guard.port), timeout=5) as bare:
        bare.sendall(data)
        if half:
            bare.shutdown(socket.SHUT_WR)
            bare.settimeout(0.05)
            with suppress(OSError):
                bare.recv(100)
        else:
            bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_1000_hostile_messages_leave_it_serving(paged: Serving) -> None:
    draw, sent = random.Random(0), 0
    place = f"127.0.0.1:{paged.guard.port}"
    handshake = (
        f"GET /ws HTTP/1.1\r\nHost: {place}\r\nOrigin: http://{place}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    while sent < HOSTILE:
        if draw.random() < 0.2:
            data = draw.choice([handshake, handshake[:80], handshake + draw.randbytes(50), b"\x16\x03\x01", b"GET /"])
            raw(paged, data, half=draw.random() < 0.5)
            sent += 1
            continue
        greeted = draw.random() < 0.8
        with paged.reader(hello=greeted) as reader:
            for _ in range(draw.randrange(1, 60)):
                sent += 1
                try:
                    reader.socket.send(odd(draw))
                except ConnectionClosed:
                    break
            if greeted:  # all of them were read
                reader.id = 10**7
                assert reader.answer("hello")["answer"]["version"]
    with paged.reader() as reader:
        assert reader.answer("generate", text="the cat", max_new_tokens=2)["answer"]["text"] is not None
    assert fetch(paged, "/")[0] == 200


def test_a_message_far_too_long_ends_the_socket(running: Serving, reader: Reader) -> None:
    reader.socket.send("x" * (LIMITS.message_bytes + 1))
    assert "a message of 100,001 characters" in str(reader.message()["error"])
    reader.socket.send("x" * (5 * LIMITS.message_bytes))
    with pytest.raises(ConnectionClosed):
        reader.message()
    with running.reader() as other:
        assert other.answer("generate", text="the cat", max_new_tokens=1)


def test_nothing_is_compressed(running: Serving) -> None:
    with running.reader(compression="deflate") as reader:
        assert reader.socket.protocol.extensions == []


def test_who_does_not_greet_is_let_go(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cutaway.apps.server import connection

    monkeypatch.setattr(connection, "GREETING", 0.2)
    with serving(opened(tiny), replace(LIMITS, readers=1)) as running:
        with running.reader(hello=False) as silent, pytest.raises(ConnectionClosed):
            silent.message(timeout=3)
        with running.reader():
            pass


def test_who_has_no_token_takes_no_readers_place(tiny: Path) -> None:
    with serving(opened(tiny), replace(LIMITS, readers=2), host="0.0.0.0") as running, ExitStack() as stack:
        silent = [stack.enter_context(running.reader(hello=False)) for _ in range(UNGREETED + 2)]
        for first in silent[:2]:  # the oldest made way
            with pytest.raises(ConnectionClosed):
                first.message(timeout=3)
        with running.reader() as one, running.reader() as two:
            assert one.answer("generate", text="the cat", max_new_tokens=1)
            assert two.answer("generate", text="the cat", max_new_tokens=1)


def test_a_bug_while_a_request_is_read_is_a_sentence(running: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    with running.reader() as reader:
        with monkeypatch.context() as patched:
            patched.setattr(wire, "read", lambda text: 1 // 0)
            reader.socket.send("{}")
            assert reader.message(timeout=3)["error"]["found"].startswith("a bug (ZeroDivisionError")
        assert reader.answer("generate", text="the cat", max_new_tokens=1)
