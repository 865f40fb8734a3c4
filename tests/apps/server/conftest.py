"""A real server with a tiny model on a free port, and readers of its socket.

It does not know what is asked.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from websockets.sync.client import ClientConnection, connect

from cutaway.apps.server.app import application
from cutaway.apps.server.guard import Guard
from cutaway.apps.server.serving import listening, server
from cutaway.apps.server.session import Limits, Served
from cutaway.lm import LM
from tests.tiny import build, llama, save_tokenizer

CONTEXT = 2048
LIMITS = Limits(message_bytes=100_000, characters=20_000, unsent_bytes=3_000_000)


@dataclass
class Serving:
    """A server that runs in this process."""

    served: Served
    guard: Guard
    app: Any

    @property
    def lm(self) -> LM:
        return self.served.lm

    @contextmanager
    def reader(self, hello: bool = True, **over: Any) -> Iterator["Reader"]:
        """A page's socket; over: other headers, as of websockets.connect."""
        place = f"127.0.0.1:{self.guard.port}"
        asked = {"origin": f"http://{place}", "max_size": None, "max_queue": None, "compression": None} | over
        with connect(f"ws://{place}/ws", **asked) as socket:
            reader = Reader(socket)
            if hello:
                reader.answer("hello", token=self.guard.token)
            yield reader


class Reader:
    """One page."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.id = socket, 0

    def ask(self, name: str, **arguments: Any) -> int:
        """Its number."""
        self.id += 1
        self.socket.send(json.dumps({"id": self.id, "ask": name, **arguments}))
        return self.id

    def message(self, timeout: float = 20) -> dict[str, Any]:
        """The next one; of a frame its metadata, with the tensors as "arrays"."""
        received = self.socket.recv(timeout)
        if isinstance(received, str):
            return json.loads(received)
        size = int.from_bytes(received[:8], "little")
        about = json.loads(received[8 : 8 + size])["__metadata__"]
        answer = json.loads(about["answer"])
        return {"id": int(about["id"]), "last": about["last"] == "true", "answer": answer, "arrays": load(received)}

    def until(self, id: int) -> list[dict[str, Any]]:
        """The frames of a request to its last; its error or its cancelling ends it too."""
        frames = []
        while True:
            message = self.message()
            if message["id"] == id and "queue" not in message and "progress" not in message:
                frames.append(message)
                if message.get("last") or "error" in message or "cancelled" in message:
                    return frames

    def answer(self, name: str, **arguments: Any) -> dict[str, Any]:
        """The last frame of a request, which must not fail."""
        last = self.until(self.ask(name, **arguments))[-1]
        assert "answer" in last, last
        return last

    def error(self, name: str, **arguments: Any) -> str:
        """The sentence of a request that must fail."""
        error = self.until(self.ask(name, **arguments))[-1]["error"]
        return f"found {error['found']}; expected {error['expected']}; {error['do']}."


@contextmanager
def serving(lm: LM, limits: Limits = LIMITS, host: str = "127.0.0.1", folder: Path = Path("none")) -> Iterator[Serving]:
    """A server of this model while the context lasts."""
    with listening("127.0.0.1", 0) as listener:
        guard, served = Guard.of(host, listener.getsockname()[1]), Served(lm, "'tiny'", limits)
        app, up = application(served, guard, folder), threading.Event()
        run = server(app, limits, up.set)
        thread = threading.Thread(target=run.run, args=([listener],), daemon=True)
        thread.start()
        assert up.wait(10)
        try:
            yield Serving(served, guard, app)
        finally:
            run.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of three blocks with 300 tokens and a long context."""
    folder = tmp_path_factory.mktemp("served")
    over = {"vocab_size": 300, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    build(llama(**over, num_key_value_heads=2, max_position_embeddings=CONTEXT)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def opened(folder: Path) -> LM:
    """A model of its own: a server changes how its passes run."""
    from cutaway.lm import load as load_lm

    lm = load_lm(folder, quantize="int8", dtype="float32", device="cpu")
    lm.eos_ids = frozenset()  # so that every text is as long as asked
    return lm


@pytest.fixture(scope="module")
def running(tiny: Path) -> Iterator[Serving]:
    """One server for a module's tests."""
    with serving(opened(tiny)) as found:
        yield found


@pytest.fixture
def reader(running: Serving) -> Iterator[Reader]:
    """A reader who said hello."""
    with running.reader() as found:
        yield found


@pytest.fixture(scope="module")
def plain(tiny: Path) -> LM:
    """The same model, served by none."""
    return opened(tiny)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    with suppress(RuntimeError):
        return torch.equal(one, other)
    return False
