"""`cutaway models`: which models are on this machine and can be run, found without the network.

It reads config.json files and sizes; it does not know any weights.
"""

from pathlib import Path
from typing import Any

from cutaway.apps.cli.columns import columns
from cutaway.apps.cli.options import Debug, Json, Model, Offline, Unread
from cutaway.apps.cli.running import busy, find, print_json, require_known
from cutaway.ground.errors import CutawayError, ModelNotFound


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

    return {"families": supported(), "default": _default(), **_hub_cache()}


def _default() -> dict[str, Any]:
    """The default model, and where it is, if it is here."""
    from cutaway.weights import default_model

    name = default_model.SMOLLM2.name
    try:
        return _described(name, default_model.fetch(offline=True))
    except CutawayError:
        return {"name": name, "family": None, "folder": None, "bytes": None}


def _hub_cache() -> dict[str, Any]:
    """The models of the hub's cache that can be run, those that are not whole, those of which one file must be named,
    and how many others there are.
    """
    from cutaway.weights.hub import cached, cached_ids

    found: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    several: list[dict[str, Any]] = []
    others = 0
    for name in cached_ids():
        try:
            path, lacks = cached(name)
            if path is None:
                parts.append({"name": name, "folder": None, "missing": lacks})
            elif lacks in (None, "weights"):  # of a kind that cutaway runs, or not: its config.json says
                row = _described(name, path)
                (parts if lacks else found).append(row | ({"missing": lacks} if lacks else {}))
            else:
                parts.append({"name": name, "folder": str(path), "missing": lacks})
        except ModelNotFound as error:  # several models in one folder
            several.append({"name": name, "found": error.found, "do": error.do})
        except CutawayError:  # of a kind that cutaway does not run
            others += 1
    return {"hub_cache": found, "hub_not_whole": parts, "hub_several": several, "hub_others": others}


def _described(name: str, path: Path) -> dict[str, Any]:
    """A model by its files. Raises the errors of weights/families for one that cannot be run."""
    from cutaway.weights.checkpoint import open_checkpoint
    from cutaway.weights.files.packed import refuse_packed_config
    from cutaway.weights.opening import config_alone

    checkpoint = open_checkpoint(path) if path.is_file() else config_alone(path)
    refuse_packed_config(checkpoint.config)
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return {"name": name, "family": checkpoint.model_type, "folder": str(path), "bytes": size}


def _page(data: dict[str, Any]) -> str:
    default, hub = data["default"], data["hub_cache"]
    here = f"  {default['folder']}" if default["folder"] else "  not here yet; the first run fetches it"
    parts = [
        f"families that cutaway runs: {', '.join(data['families'])}",
        f"the default model\n{_line_of([default])}\n{here}",
        "the hub's cache\n" + (_line_of(hub) if hub else "  no model that cutaway runs"),
    ]
    for row in data["hub_not_whole"]:
        missing = f"{row['name']}: not whole, without {row['missing']}"
        parts[-1] += f"\n  {missing}; run `cutaway tokens hi --model {row['name']}` with the network on"
    for row in data["hub_several"]:
        parts[-1] += f"\n  {row['name']}: {row['found']}; {row['do']}"
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
