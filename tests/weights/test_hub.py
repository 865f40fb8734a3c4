"""resolve: what is here is taken as it is, the cache comes before the network, and every failure is one sentence."""

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from cutaway.ground.errors import BadCheckpoint, DownloadFailed, ModelNotFound, UnsupportedModel
from cutaway.weights import default_model
from cutaway.weights.hub import chosen_files, config_of_hub, resolve

COMMIT = "a" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, in an empty working folder."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "hub"


def put_in_cache(cache: Path, name: str, *files: str, index: dict[str, Any] | None = None) -> Path:
    """A snapshot as the hub's client leaves one."""
    repository = cache / f"models--{name.replace('/', '--')}"
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for file in files:
        (folder / file).write_text("{}" if index is None or not file.endswith("index.json") else json.dumps(index))
    return folder


@pytest.mark.usefixtures("no_network")
def test_a_local_folder_or_gguf_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "here" / "gpt2").mkdir()  # called like a model of the hub: the folder wins
    assert resolve("gpt2") == Path("gpt2")
    assert resolve(str(tmp_path)) == tmp_path
    for name in ("m.gguf", "M.GGUF", "sha256-1234"):  # the last: as Ollama stores them
        (tmp_path / name).write_bytes(b"GGUF")
        assert resolve(str(tmp_path / name)) == tmp_path / name


@pytest.mark.usefixtures("no_network")
def test_no_name_is_the_default_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(default_model, "fetch", lambda progress, *, offline: tmp_path / str(offline))
    assert resolve(None) == tmp_path / "False"
    assert resolve(None, offline=True) == tmp_path / "True"


NONSENSE = [
    "",
    " ",
    "./nope",
    "../nope",
    "/nope",
    "~/nope",
    "~nobody-here/x",
    "a/b/c",
    "x.gguf",
    "--x",
    "x" * 5000,
    "a\0b",
]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", NONSENSE)
def test_a_name_that_is_no_path_and_no_id_is_refused_without_asking(name: str) -> None:
    with pytest.raises(ModelNotFound, match=r"found the model name .* expected .*hub.*; check its spelling"):
        resolve(name)


@pytest.mark.usefixtures("no_network")
def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(b"PK\x03\x04 and more")
    with pytest.raises(
        ModelNotFound, match=r"found the file .*a part of a model.*name a folder that holds config.json"
    ):
        resolve(str(file))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFound, match=rf"found the file .*; name its folder, {tmp_path}"):
        resolve(str(file))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("files", "index"),
    [
        (("config.json", "model.safetensors"), None),
        (("config.json", "pytorch_model.bin"), None),
        (("config.json", "x.safetensors", "model.safetensors.index.json"), {"weight_map": {"a": "x.safetensors"}}),
    ],
)
def test_a_whole_model_in_the_cache_needs_no_network(cache: Path, files: tuple[str, ...], index: Any) -> None:
    folder = put_in_cache(cache, "some/model", *files, index=index)
    assert resolve("some/model") == folder
    assert resolve("some/model", offline=True) == folder


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("files", "index", "lacks"),
    [
        ((), None, "config.json"),
        (("config.json",), None, "weights"),
        (("model.safetensors",), None, "config.json"),
        (("config.json", "model.safetensors.index.json"), None, "weights"),
        (("config.json", "model.safetensors.index.json"), {"weight_map": {"a": "x.safetensors"}}, "x.safetensors"),
    ],
)
def test_part_of_a_model_in_the_cache_is_not_taken(cache: Path, files: tuple[str, ...], index: Any, lacks: str) -> None:
    put_in_cache(cache, "some/model", *files, index=index)
    message = (
        rf"found part of the model 'some/model' in the hub's cache, without {lacks}; .*; run it once with the netw"
    )
    with pytest.raises(ModelNotFound, match=message):
        resolve("some/model", offline=True)


@pytest.mark.usefixtures("no_network")
def test_a_snapshot_whose_blobs_are_gone_is_not_whole(cache: Path) -> None:
    folder = put_in_cache(cache, "some/model", "config.json")
    (folder / "model.safetensors").symlink_to(cache / "gone")
    with pytest.raises(ModelNotFound, match=r"found part of the model 'some/model' .*, without weights"):
        resolve("some/model", offline=True)


@pytest.mark.usefixtures("no_network")
def test_a_download_of_which_no_file_is_whole_is_known_as_one(cache: Path) -> None:
    blobs = cache / "models--some--model" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "abc.incomplete").write_bytes(b"half")
    with pytest.raises(ModelNotFound, match=r"found part of the model 'some/model' .*, without any file that is whole"):
        resolve("some/model", offline=True)


@pytest.mark.usefixtures("no_network")
def test_an_adapter_in_the_cache_is_whole_without_a_config_json(cache: Path) -> None:
    folder = put_in_cache(cache, "some/lora", "adapter_config.json", "adapter_model.safetensors")
    assert resolve("some/lora", offline=True) == folder
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UnsupportedModel, match=r"found a PEFT adapter in .*merge it first"):
        resolve("some/lora", offline=True)


@pytest.mark.usefixtures("no_network")
def test_a_cached_repository_of_one_gguf_is_that_file_and_of_several_lists_them(cache: Path) -> None:
    folder = put_in_cache(cache, "some/gguf")
    (folder / "m-Q4_0.gguf").write_bytes(b"GGUF")
    assert resolve("some/gguf", offline=True) == folder / "m-Q4_0.gguf"
    (folder / "m-Q8_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFound, match=r"found 2 models in .*: m-Q4_0.gguf, m-Q8_0.gguf; .*; name one of them"):
        resolve("some/gguf", offline=True)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("typo", ["facebok/opt-125m", "opt-125m", "Facebook/OPT-125M", "facebook/opt125m"])
def test_a_typo_is_answered_with_the_nearest_id_of_the_cache(cache: Path, typo: str) -> None:
    for name in ("facebook/opt-125m", "openai-community/gpt2"):
        put_in_cache(cache, name, "config.json", "model.safetensors")
    with pytest.raises(ModelNotFound, match=r"or correct its spelling: the cache has facebook/opt-125m\.$"):
        resolve(typo, offline=True)


@pytest.mark.usefixtures("no_network")
def test_the_hubs_own_switch_for_no_network_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ModelNotFound, match=r"found the model 'some/model', neither .*; run it once with the network on"
    ):
        resolve("some/model")


def test_weights_are_chosen_in_one_format() -> None:
    beside = ["config.json", "merges.txt", "tokenizer.model", "chat_template.jinja"]
    other = ["README.md", "onnx/config.json", "tf_model.h5", "flax_model.msgpack", "training_args.bin", "x.gguf"]
    pickle, safe = "pytorch_model.bin", "model.safetensors"
    assert chosen_files("m", [*beside, *other, pickle, safe]) == sorted([*beside, safe])
    assert chosen_files("m", [*beside, *other, pickle]) == sorted([*beside, pickle])
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    bins = ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"]
    assert chosen_files("m", [*beside, *shards, *bins]) == sorted([*beside, *shards])
    assert chosen_files("m", [*beside, *bins, safe]) == sorted([*beside, safe])
    assert chosen_files("m", [*beside, *shards, safe]) == sorted([*beside, safe])  # as a folder of them would mean
    assert chosen_files("m", [*beside, "x.safetensors", "consolidated.safetensors"]) == sorted(
        [*beside, "x.safetensors"]
    )
    with pytest.raises(ModelNotFound, match=r"found no weights in the hub's 'm' \(8 files\).*choose another model"):
        chosen_files("m", [*beside, *(file for file in other if file != "x.gguf")])
    with pytest.raises(
        ModelNotFound, match=r"found weights as GGUF only in the hub's 'm': x.gguf;.*hf download m x.gguf"
    ):
        chosen_files("m", [*beside, *other])
    adapter = ["adapter_config.json", "adapter_model.bin"]
    assert chosen_files("m", [*adapter, "optimizer.pt"]) == adapter
    with pytest.raises(ModelNotFound, match=r"found no weights in the hub's 'm' \(1 files\)"):
        chosen_files("m", adapter[:1])


class FakeHub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs, on this machine."""

    files: dict[str, bytes] = {}  # noqa: RUF012
    asked: list[str] = []  # noqa: RUF012

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
        tree = [{"type": "file", "path": n, "size": len(d), "oid": _oid(d)} for n, d in self.files.items()]
        if path.startswith("/api/models/some/model"):
            answer = tree if "/tree/" in path else {"id": "some/model", "sha": COMMIT, "siblings": siblings}
            return self._send(200, json.dumps(answer).encode(), {})
        if path.startswith("/some/model/resolve/"):
            name = path.split("/", 5)[-1]
            if self.command == "GET":
                self.asked.append(name)
            return self._send(200, self.files[name], {"ETag": f'"{_oid(self.files[name])}"', "X-Repo-Commit": COMMIT})
        gated = "/gated/" in path
        return self._send(403 if gated else 404, b"{}", {"X-Error-Code": "GatedRepo" if gated else "RepoNotFound"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body)), "Content-Type": "application/json"} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    FakeHub.files, FakeHub.asked = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    point_at(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield FakeHub
    huggingface_hub.close_session()
    server.shutdown()
    thread.join()
    server.server_close()


def point_at(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_a_model_of_the_hub_is_fetched_once_and_silently(
    hub: type[FakeHub], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files = {
        "config.json": b"{}",
        "model.safetensors": os.urandom(5000),
        "pytorch_model.bin": b"x",
        "README.md": b"x",
    }
    calls: list[tuple[int, int, str]] = []
    folder = resolve("some/model", progress=lambda *call: calls.append(call))
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert sorted(hub.asked) == ["config.json", "model.safetensors"]
    assert calls[-1] == (5000, 5000, "downloading some/model")  # config.json came first, unasked for its size
    assert capfd.readouterr() == ("", "")
    point_at(monkeypatch, "http://127.0.0.1:9")
    assert resolve("some/model") == folder


def test_the_weights_that_config_json_names_are_fetched(hub: type[FakeHub]) -> None:
    config = {"transformers_weights": "mine.safetensors"}
    hub.files = {"config.json": json.dumps(config).encode(), "mine.safetensors": b"x" * 9, "model.safetensors": b"x"}
    folder = resolve("some/model")
    assert {file.name for file in folder.iterdir()} == {"config.json", "mine.safetensors"}
    assert resolve("some/model", offline=True) == folder


def test_a_repository_of_two_variants_says_so(hub: type[FakeHub]) -> None:
    hub.files = {"config.json": b"{}", "model.fp16.safetensors": b"x", "model.bf16.safetensors": b"x"}
    with pytest.raises(BadCheckpoint, match=r"found weights of 2 variants in the hub's 'some/model' \(model.bf16"):
        resolve("some/model")


@pytest.mark.parametrize("ask", [resolve, config_of_hub])
def test_both_ways_to_ask_a_hub_out_of_reach_say_the_same(
    cache: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[[str], Path]
) -> None:
    put_in_cache(cache, "some/model", "model.safetensors")
    put_in_cache(cache, "some/other", "config.json", "model.safetensors")
    point_at(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(DownloadFailed, match=r"'some/model', of which the cache lacks config.json .*check the network"):
        ask("some/model")
    with pytest.raises(DownloadFailed, match=r"which is not in the cache either .*; the cache has some/other"):
        ask("some/othr")


def test_an_id_that_the_hub_does_not_know_is_not_found(hub: type[FakeHub]) -> None:
    with pytest.raises(ModelNotFound, match=r"found the model name 'no/such', neither .*; check its spelling"):
        resolve("no/such")


def test_a_gated_model_says_what_to_do(hub: type[FakeHub]) -> None:
    with pytest.raises(
        DownloadFailed, match=r"found the model 'gated/model', whose owner asks for consent.*hf auth login"
    ):
        resolve("gated/model")


def refused() -> tuple[socket.socket | None, int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return None, probe.getsockname()[1]


def silent() -> tuple[socket.socket | None, int]:
    """A server that accepts the connection and never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    return server, server.getsockname()[1]


@pytest.mark.parametrize("how", [refused, silent])
def test_a_hub_out_of_reach_is_one_sentence_and_soon(
    monkeypatch: pytest.MonkeyPatch, how: Callable[[], tuple[socket.socket | None, int]]
) -> None:
    monkeypatch.setattr("cutaway.weights.hub.TIMEOUT", 0.5)
    server, port = how()
    point_at(monkeypatch, f"http://127.0.0.1:{port}")
    start = time.perf_counter()
    with pytest.raises(
        DownloadFailed, match=r"found no way to fetch 'gpt2', .*check the network, or pass a local folder"
    ):
        resolve("gpt2")
    assert time.perf_counter() - start < 3
    huggingface_hub.close_session()
    if server:
        server.close()


def test_the_address_of_a_models_page_names_its_id():
    with pytest.raises(ModelNotFound, match=r"expected a folder.*; pass facebook/opt-1\.3b\."):
        resolve("https://huggingface.co/facebook/opt-1.3b/tree/main", offline=True)
