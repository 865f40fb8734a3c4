"""`cutaway serve` as a process: one address, a taken port, Ctrl-C, and what it says without its extra."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.sync.client import connect

from cutaway.apps.cli.main import main
from cutaway.apps.server import serving

COMMAND = [sys.executable, "-c", "import sys; from cutaway.apps.cli.main import main; sys.exit(main(sys.argv[1:]))"]


def test_it_prints_one_address_serves_and_ends_by_ctrl_c(tiny: Path) -> None:
    words = ["serve", "--model", str(tiny), "--port", "0", "--no-browser"]
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stderr is not None
        url = server.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:") and "token" not in url
        with connect(f"ws{url[4:]}ws", origin=url.rstrip("/"), compression=None) as page:  # type: ignore[arg-type]
            page.send(json.dumps({"id": 1, "ask": "hello"}))
            assert b"blocks.2.resid_post" in page.recv(10)  # type: ignore[operator]
            page.send(json.dumps({"id": 2, "ask": "generate", "text": "the cat", "max_new_tokens": 500}))
            page.recv(10)
            server.send_signal(signal.SIGINT)
            rest, said = server.communicate(timeout=20)
    assert (server.returncode, rest) == (0, "") and "Traceback" not in said and "rror" not in said


def test_a_taken_port_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port), "--no-browser"]) == 2
    said = capsys.readouterr().err
    assert f"127.0.0.1 port {port}, which cannot be listened to (address already in use)" in said
    assert "pass --port 0 for any free one" in said and said.count("\n") == 1


WRONG = [
    (["--port", "70000"], "expected 0 to 65535"),
    (["--host", "no.such.name.invalid"], "no.such.name.invalid port"),
]


@pytest.mark.parametrize(("words", "says"), WRONG)
def test_a_place_that_is_none(capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    assert main(["serve", "--no-browser", *words]) == 2
    assert says in capsys.readouterr().err


def test_without_its_extra_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: None if name == "uvicorn" else name)
    assert main(["serve", "--no-browser"]) == 2
    assert (
        "found no uvicorn in this Python" in (said := capsys.readouterr().err) and 'pip install "cutaway[web]"' in said
    )
