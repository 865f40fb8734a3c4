"""A model's name becomes a local folder or file: local paths first, then the hub's cache, then the hub.

It does not know what is in the files, nor how they are read.
"""

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cutaway.ground.errors import BadCheckpoint, CutawayError, DownloadFailed, ModelNotFound, UnsupportedModel
from cutaway.weights import default_model
from cutaway.weights.files import ignore_note, is_gguf, meant_by, missing_from, model_path, named_in
from cutaway.weights.files.lazy import Note
from cutaway.weights.files.recognize import ADAPTER, ADAPTER_TENSORS, no_model
from cutaway.weights.files.which import INDEX, chosen, ggufs, listed, shards_of
from cutaway.weights.progress import Progress

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
MODEL_URL = re.compile(r"https?://[^/]+/([\w.-]+/[\w.-]+)")  # of a model's page on the hub
LONGEST_ID = 96  # characters; the hub's own limit
FILE_ENDINGS = (".gguf", ".safetensors", ".bin", ".json", ".pt", ".pth")
TIMEOUT = 5.0  # seconds for the hub's first answer
# A model's files other than its weights, at the top level of a repository.
BESIDE_WEIGHTS = re.compile(r"[^/]*\.(json|txt|model|jinja)")


def resolve(
    name: str | None, *, offline: bool = False, progress: Progress | None = None, note: Note = ignore_note
) -> Path:
    """The folder (Hugging Face's format) or .gguf file of a model.

    name: a folder, a .gguf file, an id of the hub ("facebook/opt-1.3b"), or None for the default model. A model on
    this machine never causes a network call. offline: no network at all. progress(done, total, what) counts bytes.
    note(line): where the path differs from the name. Raises ModelNotFound for a name that is no model, DownloadFailed
    where it cannot be fetched.
    """
    if name is None:
        return default_model.fetch(progress, offline=offline)
    local = _local(name)
    if local is not None:
        return model_path(local, note)
    if not is_id(name):
        shown = name if len(name) <= LONGEST_ID else f"{name[:LONGEST_ID]}…"
        expected = "a folder, a .gguf file, or an id of the hub such as facebook/opt-1.3b"
        url = MODEL_URL.match(name)
        do = f"pass {url[1]}" if url else "check its spelling"
        raise ModelNotFound(f"the model name {shown!r}, which is no file here", expected, do)
    return _from_hub(name, offline, progress)


def is_id(name: str) -> bool:
    """Whether a name can be an id of the hub, and has no file ending."""
    return len(name) <= LONGEST_ID and HUB_ID.fullmatch(name) is not None and not name.lower().endswith(FILE_ENDINGS)


def cached_ids() -> list[str]:
    """Ids of the models in the hub's cache, complete or not; no network."""
    from huggingface_hub import constants

    folders = sorted(Path(constants.HF_HUB_CACHE).glob("models--*"))
    return [folder.name.removeprefix("models--").replace("--", "/") for folder in folders if folder.is_dir()]


def cached(name: str) -> tuple[Path | None, str | None]:
    """A model's path in the hub's cache (the folder or its .gguf file), and what is missing to run it; no network.

    Raises ModelNotFound where the folder holds several .gguf files, of which one must be named.
    """
    folder = _snapshot(name)
    if folder is None:
        return None, "any file that is whole" if name in cached_ids() else None
    try:
        path = model_path(folder)
    except BadCheckpoint as error:  # a pointer or an empty file
        return folder, error.found
    return path, None if is_gguf(path) else missing_from(path)


def _local(name: str) -> Path | None:
    """The file or folder of this name, if there is one."""
    try:
        path = Path(name).expanduser()
        return path if name.strip() and path.exists() else None
    except (OSError, RuntimeError):  # a name too long for any path, or an unknown ~user
        return None


def _from_hub(name: str, offline: bool, progress: Progress | None) -> Path:
    # here, because it takes 0.3 s to import and local models need none of it
    from huggingface_hub import HfApi, constants, snapshot_download

    path, lacks = cached(name)
    if path is not None and lacks is None:
        return path
    if offline or constants.is_offline_mode():
        raise _not_here(name, path, lacks)
    with _hub_errors(name, lacks):
        info = HfApi().model_info(name, timeout=TIMEOUT, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        named = None
        if "config.json" in sizes:  # fetched first: it may name the weights
            named = named_in(_config(name))
        wanted = chosen_files(name, list(sizes), named)
        bars = _bars(progress, sum(sizes[file] for file in wanted if file != "config.json"), name)
        return Path(snapshot_download(name, allow_patterns=wanted, tqdm_class=bars, etag_timeout=TIMEOUT))


@contextmanager
def _hub_errors(name: str, lacks: str | None) -> Iterator[None]:
    """Converts the hub client's errors into ours. lacks: the files that are missing from the cache."""
    from huggingface_hub import errors

    try:
        yield
    except CutawayError:
        raise
    except errors.GatedRepoError as error:
        found = f"the model {name!r}, whose owner asks for consent first"
        raise DownloadFailed(found, "access to it", "accept its terms on its page, then run hf auth login") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        found = f"the model name {name!r}, neither a file here nor a model that the hub shows you"
        raise ModelNotFound(found, "an id of the hub or a local folder", _spelling(name)) from error
    except Exception as error:  # also the errors of the client's HTTP library, which differs between versions
        part = f"of which the cache lacks {lacks}" if lacks else "which is not in the cache either"
        near = nearest(name)
        do = f"check the network, or pass a local folder{f'; the cache has {near}' if near else ''}"
        found = f"no way to fetch {name!r}, {part} ({_first_line(error)})"
        raise DownloadFailed(found, "an answer from the hub", do) from error


def _not_here(name: str, path: Path | None, lacks: str | None) -> CutawayError:
    """The error for a model that is incomplete on this machine, when offline."""
    other = no_model(path, lacks) if path is not None and lacks in ("config.json", "weights") else None
    if isinstance(other, UnsupportedModel):  # complete, but of a kind that we do not read
        return other
    if lacks:
        found = f"part of the model {name!r} in the hub's cache, without {lacks}"
        return ModelNotFound(found, "all of it when offline", "run it once with the network on, which fetches the rest")
    found = f"the model {name!r}, neither a folder here nor whole in the hub's cache"
    near = nearest(name)
    do = f"run it once with the network on{f', or correct its spelling: the cache has {near}' if near else ''}"
    return ModelNotFound(found, "one of these when offline", do)


def nearest(name: str) -> str | None:
    """The id in the hub's cache that is most like this name, with its owner or without; None where none is."""
    ids = {spelling.lower(): id_ for id_ in cached_ids() for spelling in (id_.rpartition("/")[2], id_)}
    close = difflib.get_close_matches(name.lower(), ids, n=1, cutoff=0.75)
    return ids[close[0]] if close and ids[close[0]] != name else None


def _spelling(name: str) -> str:
    near = nearest(name)
    return f"check its spelling: the cache has {near}" if near else "check its spelling"


def chosen_files(name: str, files: list[str], named: object = None) -> list[str]:
    """A repository's files that make up the model: the weights that would be read from such a folder, and small files.

    named: config.json's `transformers_weights`. Raises ModelNotFound where the repository has no weights that we read,
    BadCheckpoint where the choice is ambiguous.
    """
    top = [file for file in files if "/" not in file]
    beside = [file for file in top if BESIDE_WEIGHTS.fullmatch(file) and not INDEX.fullmatch(file)]
    start = chosen(top, f"the hub's {name!r}", named)
    if start is None and ADAPTER in top:
        start = next((file for file in ADAPTER_TENSORS if file in top), None)
    if start is None:
        raise _no_weights(name, top)
    return sorted({*beside, start, *shards_of(top, start)})


def _no_weights(name: str, files: list[str]) -> ModelNotFound:
    """The error for a repository without weights in PyTorch's formats, which names what it has instead."""
    models = ggufs(files)
    if models:
        found = f"weights as GGUF only in the hub's {name!r}: {listed(models, most=8)}"
        do = f"download one (hf download {name} {models[0]}) and pass the path that this prints"
        return ModelNotFound(found, "model.safetensors or pytorch_model.bin", do)
    found, do = f"no weights in the hub's {name!r} ({len(files)} files)", "choose another model"
    return ModelNotFound(found, "model.safetensors or pytorch_model.bin", do)


def _snapshot(name: str) -> Path | None:
    """A model's folder in the hub's cache, complete or not; no network."""
    from huggingface_hub import errors, snapshot_download

    try:
        # one file only: else the client takes a folder without files that we never fetch for incomplete
        return Path(snapshot_download(name, local_files_only=True, allow_patterns=["config.json"]))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return None


def _bars(progress: Progress | None, total: int, name: str) -> type[Any]:
    """A class of progress bars for the hub's client, which shows nothing and calls `progress` with the bytes."""
    from huggingface_hub.utils import tqdm

    most = 0  # the client counts bytes received and bytes written in two bars: the larger is passed on

    class Silent(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.counted = 0 if kwargs.get("unit") == "B" else None
            super().__init__(*args, **(kwargs | {"disable": True}))

        def update(self, n: float | None = 1) -> None:
            nonlocal most
            if progress and self.counted is not None:
                self.counted += int(n or 0)
                most = max(most, min(self.counted, total))
                progress(most, total, f"downloading {name}")

    return Silent


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


def config_of_hub(
    name: str, *, offline: bool = False, progress: Progress | None = None, note: Note = ignore_note
) -> Path:
    """As `resolve`, but of a hub's model that is not in the cache only config.json is fetched: its folder.

    So a model's shapes are known before its weights are fetched; local files may be pointers. Raises as `resolve`.
    """
    local = _local(name)
    if local is not None:
        return meant_by(local, note)
    if not is_id(name):
        return resolve(name, offline=offline, progress=progress)
    from huggingface_hub import HfApi, constants

    path, lacks = cached(name)
    if path is not None and (lacks is None or (path / "config.json").is_file()):
        return path
    if offline or constants.is_offline_mode():
        raise _not_here(name, path, lacks)
    with _hub_errors(name, lacks):
        info = HfApi().model_info(name, timeout=TIMEOUT)  # first: without a network, a download retries for long
        if "config.json" not in {file.rfilename for file in info.siblings or []}:
            do = "download its .gguf file, if it has one, and pass the path"
            raise ModelNotFound(f"no config.json in the hub's {name!r}", "a model in Hugging Face's format", do)
        return _config(name)


def _config(name: str) -> Path:
    """The folder that holds the hub's config.json of a model, fetched."""
    from huggingface_hub import hf_hub_download

    bars = _bars(None, 0, name)
    return Path(hf_hub_download(name, "config.json", etag_timeout=TIMEOUT, tqdm_class=bars)).parent
