"""`cutaway models`: which models are on this machine and can be run, found without the network.

It reads config.json files and sizes; it does not know any weights.
"""

from pathlib import Path
from typing import Any

from cutaway.apps.cli.columns import columns
from cutaway.apps.cli.options import Debug, Json, Model, Offline, Unread
from cutaway.apps.cli.running import busy, facts_of, find, print_json, require_known
from cutaway.ground.errors import CutawayError


def models(
    model: Model = None,
    as_json: Json = False,
    debug: Debug = False,
    offline: Offline = False,
    quantize: Unread = None,
    dtype: Unread = None,
    device: Unread = None,
) -> None:
    """List the models that are here; never uses the network.

    With --model, say only where that one is.
    """
    require_known(quantize)
    with busy("looking") as report:
        if model is not None:
            path = find(model, offline=True, report=report)
            data = {"models": [_described(model, path)]}
        else:
            data = _everything()
    if as_json:
        print_json(data)
    elif model is not None:
        print(_line_of(data["models"]))
        print(f"  {data['models'][0]['folder']}")
    else:
        print(_page(data))


def _everything() -> dict[str, Any]:
    from cutaway.weights.families import supported

    hub, others = _hub_cache()
    return {"families": supported(), "default": _default(), "hub_cache": hub, "hub_others": others}


def _default() -> dict[str, Any]:
    """The default model, and where it is, if it is here."""
    from cutaway.weights import default_model

    name = default_model.SMOLLM2.name
    try:
        return _described(name, default_model.fetch(offline=True))
    except CutawayError:
        return {"name": name, "family": None, "folder": None, "bytes": None}


def _hub_cache() -> tuple[list[dict[str, Any]], int]:
    """The models of the hub's cache that can be run, and how many others there are."""
    import huggingface_hub as hub

    try:
        repos = [repo for repo in hub.scan_cache_dir(hub.constants.HF_HUB_CACHE).repos if repo.repo_type == "model"]
    except hub.CacheNotFound:
        return [], 0
    found = []
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        revision = max(repo.revisions, key=lambda r: ("main" in r.refs, r.last_modified), default=None)
        try:
            if revision is not None:
                found.append(_described(repo.repo_id, revision.snapshot_path))
        except CutawayError:  # of a kind that cutaway does not run, or without its config.json
            continue
    return found, len(repos) - len(found)


def _described(name: str, path: Path) -> dict[str, Any]:
    """A model by its files. Raises the errors of weights/families for one that cannot be run."""
    from cutaway.weights.checkpoint import open_checkpoint, read_json

    facts_of(path)
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    config = open_checkpoint(path).config if path.is_file() else read_json(path / "config.json")
    size = sum(file.stat().st_size for file in files)
    return {"name": name, "family": config["model_type"], "folder": str(path), "bytes": size}


def _page(data: dict[str, Any]) -> str:
    default, hub = data["default"], data["hub_cache"]
    here = f"  {default['folder']}" if default["folder"] else "  not here yet; the first run fetches it"
    parts = [
        f"families that cutaway runs: {', '.join(data['families'])}",
        f"the default model\n{_line_of([default])}\n{here}",
        "the hub's cache\n" + (_line_of(hub) if hub else "  no model that cutaway runs"),
    ]
    if data["hub_others"]:
        parts[-1] += f"\n  and {data['hub_others']} that it does not run"
    return "\n\n".join(parts)


def _line_of(rows: list[dict[str, Any]]) -> str:
    from cutaway.model.architecture import size

    cells = [
        ("  " + row["name"], row["family"] or "", size(row["bytes"]) if row["bytes"] is not None else "")
        for row in rows
    ]
    return columns(cells, right=(2,))
