"""A recipe: a list of edits in a JSON file, with the facts of the model that they were made for.

Written under a temporary name until it is complete. It knows edits as data; it does not apply them.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, no_type_check

from cutaway.edit.edit import Edit
from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument
from cutaway.ground.writing import whole_file

FORMAT = "cutaway recipe 1"
Edits = Edit | Sequence[Edit] | str | Path


def write(path: Path, edits: Sequence[Edit], config: DecoderConfig) -> None:
    """Raises BadArgument for an edit that is a function, or a path that cannot be written."""
    with whole_file(path) as unfinished:
        unfinished.write_text(as_text(edits, config), encoding="utf-8")


def as_text(edits: Sequence[Edit], config: DecoderConfig) -> str:
    """The JSON of a recipe. Raises BadArgument for an edit that is a function."""
    data = {"format": FORMAT, "model": asdict(config), "edits": [edit.as_data() for edit in edits]}
    return json.dumps(data, indent=1, allow_nan=False)


def read(path: Path, config: DecoderConfig) -> list[Edit]:
    """The edits of a recipe, or of a bare list of them, written by hand.

    Raises BadArgument for another file, or a recipe for a model of other facts.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unread(path, getattr(error, "strerror", None) or error) from error
    return from_text(text, config, path)


def from_text(text: str, config: DecoderConfig, path: str | Path = "the recipe") -> list[Edit]:
    """The edits in a recipe's JSON. path: what errors call it. Raises BadArgument as `read`."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unread(path, error) from error
    if isinstance(data, list):
        return [Edit.from_data(part) for part in data]
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("edits"), list):
        found = data.get("format") if isinstance(data, dict) else data
        raise BadArgument(f"the format {found!r} in {path}", repr(FORMAT), "write it with lm.save_edits")
    _require_same_model(path, data.get("model"), config)
    return [Edit.from_data(part) for part in data["edits"]]


@no_type_check  # it checks its values itself, in sentences: the tests' beartype would come before them
def edits_of(edits: Edits, config: DecoderConfig) -> list[Edit]:
    """One edit, several, or those of a recipe's file."""
    if isinstance(edits, str | Path):
        return read(Path(edits), config)
    several = [edits] if isinstance(edits, Edit) else list(edits) if isinstance(edits, list | tuple) else None
    if several is None:
        expected, do = "an Edit, several, or a recipe's file", 'pass for example Edit.zero("blocks.0.mlp_out")'
        raise BadArgument(f"{type(edits).__name__} as edits", expected, do)
    for edit in several:
        if not isinstance(edit, Edit):
            raise BadArgument(f"the edit {edit!r}", "an Edit", 'pass for example Edit.zero("blocks.0.attn.z", head=3)')
    return several


def _unread(path: str | Path, why: object) -> BadArgument:
    do = "write it with lm.save_edits, or as a list of edits"
    return BadArgument(f"{path}, which cannot be read ({why})", "a recipe in JSON", do)


def _require_same_model(path: str | Path, made_for: Any, config: DecoderConfig) -> None:
    if made_for is None:
        return
    here = json.loads(json.dumps(asdict(config)))
    for fact, value in here.items():
        if made_for.get(fact) != value:
            found = f"{path}, a recipe for a model of {fact} {made_for.get(fact)}"
            raise BadArgument(found, f"{fact} {value}, as this model has", "load the model that it was made for")
