"""A model's name becomes a local folder or file: what is here first, then the hub's cache, then the hub.

It does not know what is in the files, nor how they are read.
"""

import re
from pathlib import Path
from typing import Any

from cutaway.ground.errors import BadCheckpoint, DownloadFailed, ModelNotFound
from cutaway.weights import default_model
from cutaway.weights.files import shard_names
from cutaway.weights.progress import Progress

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
LONGEST_ID = 96  # characters; the hub's own limit
FILE_ENDINGS = (".gguf", ".safetensors", ".bin", ".json", ".pt", ".pth")
PATIENCE = 5.0  # seconds for the hub to answer at all
# What makes a model, beside its weights; only files at the top of a repository, where a model's own files are.
BESIDE_WEIGHTS = re.compile(r"[^/]*\.(json|txt|model|jinja)")
SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
PICKLES = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")


def resolve(name: str | None, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """The folder (Hugging Face's format) or .gguf file of a model.

    name: a folder, a .gguf file, an id of the hub ("facebook/opt-1.3b"), or None for the default model. What is on
    this machine never causes a network call. offline: no network at all. progress(done, total, what) counts bytes.
    Raises ModelNotFound where the name means nothing, DownloadFailed where it could not be fetched.
    """
    if name is None:
        return default_model.fetch(progress, offline=offline)
    local = _local(name)
    if local is not None and (local.is_dir() or local.suffix == ".gguf"):
        return local
    if local is not None:
        found, expected = f"the file {name!r}", "a folder with config.json, or a .gguf file"
        raise ModelNotFound(found, expected, "name the folder that holds it")
    if len(name) > LONGEST_ID or not HUB_ID.fullmatch(name) or name.endswith(FILE_ENDINGS):
        shown = name if len(name) <= LONGEST_ID else f"{name[:LONGEST_ID]}…"
        expected = "a folder, a .gguf file, or an id of the hub such as facebook/opt-1.3b"
        raise ModelNotFound(f"the model name {shown!r}, which is no file here", expected, "check its spelling")
    return _from_hub(name, offline, progress)


def _local(name: str) -> Path | None:
    """The file or folder of this name, if there is one."""
    try:
        path = Path(name).expanduser()
        return path if name.strip() and path.exists() else None
    except (OSError, RuntimeError):  # a name too long for any path, or ~somebody unknown
        return None


def _from_hub(name: str, offline: bool, progress: Progress | None) -> Path:
    # here, because it takes 0.3 s to import and local models need none of it
    from huggingface_hub import HfApi, errors, snapshot_download

    cached = _cached(name)
    if cached is not None and _complete(cached):
        return cached
    if offline:
        found = f"the model {name!r}, neither a folder here nor whole in the hub's cache"
        raise ModelNotFound(found, "one of these when offline", "run it once with the network on")
    try:
        info = HfApi().model_info(name, timeout=PATIENCE, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        wanted = chosen_files(name, list(sizes))
        bars = _bars(progress, sum(sizes[file] for file in wanted), name)
        return Path(snapshot_download(name, allow_patterns=wanted, tqdm_class=bars, etag_timeout=PATIENCE))
    except ModelNotFound:
        raise
    except errors.GatedRepoError as error:
        found = f"the model {name!r}, whose owner asks for consent first"
        raise DownloadFailed(found, "access to it", "accept its terms on its page, then run hf auth login") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        found = f"the model name {name!r}, neither a file here nor a model that the hub shows you"
        raise ModelNotFound(found, "an id of the hub or a local folder", "check its spelling") from error
    except Exception as error:  # the hub's client lets its HTTP library's errors through, and that library changed
        found = f"no way to fetch {name!r}, which is not in the cache either ({_first_line(error)})"
        raise DownloadFailed(found, "an answer from the hub", "check the network, or pass a local folder") from error


def chosen_files(name: str, files: list[str]) -> list[str]:
    """Those files of a repository that make the model: its weights in one format, safetensors before pickles.

    Raises ModelNotFound where the repository has no weights in either.
    """
    beside = [file for file in files if BESIDE_WEIGHTS.fullmatch(file) and not file.endswith(".index.json")]
    for pattern, index in ((SAFETENSORS, "model.safetensors.index.json"), (PICKLES, "pytorch_model.bin.index.json")):
        weights = [file for file in files if pattern.fullmatch(file)]
        if weights:
            # one whole file beside shards would be fetched for nothing: the index, where there is one, decides
            shards = [file for file in weights if "-of-" in file] if index in files else weights
            return sorted([*beside, *(shards or weights), *([index] if index in files else [])])
    found = f"no weights in the hub's {name!r} ({len(files)} files)"
    do = "choose another model, or download its .gguf file and pass the path"
    raise ModelNotFound(found, "model.safetensors or pytorch_model.bin", do)


def _cached(name: str) -> Path | None:
    """The folder that the hub's cache keeps for a model, whole or not; never asks the network."""
    from huggingface_hub import errors, snapshot_download

    try:
        # one file is asked for, since the client counts a folder without files that we never wanted as incomplete
        return Path(snapshot_download(name, local_files_only=True, allow_patterns=["config.json"]))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return None


def _complete(folder: Path) -> bool:
    """Whether a cached folder can be loaded: a download that was interrupted leaves some of the files."""
    if not (folder / "config.json").is_file():
        return False
    for index, whole in (
        ("model.safetensors.index.json", "model.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin"),
    ):
        if (folder / index).is_file():
            try:
                files = set(shard_names(folder / index).values())
            except BadCheckpoint:
                return False
            return all((folder / file).is_file() for file in files)
        if (folder / whole).is_file():
            return True
    return False


def _bars(progress: Progress | None, total: int, name: str) -> type[Any]:
    """What the hub's client takes for a progress bar: it shows nothing and tells `progress` the bytes."""
    from huggingface_hub.utils import tqdm

    most = 0  # the client counts bytes received and bytes written in bars of their own: the further one is told

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


def config_of_hub(name: str, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """As `resolve`, but of a hub's model that is not here only config.json is fetched: the folder that holds it.

    So a model's shape is known before its weights come. Raises the errors of `resolve`.
    """
    if _local(name) is not None or not HUB_ID.fullmatch(name) or len(name) > LONGEST_ID or name.endswith(FILE_ENDINGS):
        return resolve(name, offline=offline, progress=progress)
    cached = _cached(name)
    if cached is not None and (cached / "config.json").is_file():
        return cached
    if offline:
        found = f"no config.json of {name!r}, neither a folder here nor in the hub's cache"
        raise ModelNotFound(found, "one of these when offline", "run it once with the network on")
    from huggingface_hub import HfApi, errors, hf_hub_download

    try:
        info = HfApi().model_info(name, timeout=PATIENCE)  # asked first: a download without a network tries for long
        if "config.json" not in {file.rfilename for file in info.siblings or []}:
            do = "download its .gguf file, if it has one, and pass the path"
            raise ModelNotFound(f"no config.json in the hub's {name!r}", "a model in Hugging Face's format", do)
        return Path(hf_hub_download(name, "config.json", etag_timeout=PATIENCE)).parent
    except ModelNotFound:
        raise
    except errors.GatedRepoError as error:
        found = f"the model {name!r}, whose owner asks for consent first"
        raise DownloadFailed(found, "access to it", "accept its terms on its page, then run hf auth login") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        found = f"the model name {name!r}, neither a file here nor a model that the hub shows you"
        raise ModelNotFound(found, "an id of the hub or a local folder", "check its spelling") from error
    except Exception as error:  # as in _from_hub
        found = f"no way to fetch {name!r}, which is not in the cache either ({_first_line(error)})"
        raise DownloadFailed(found, "an answer from the hub", "check the network, or pass a local folder") from error
