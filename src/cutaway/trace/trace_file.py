"""A trace on disk: one safetensors file with the values by site, the tokens, and the facts of the model, as data.

Written under a temporary name until it is complete; read back without the model. It does not know how values are made.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cutaway.ground.config import DecoderConfig, config_of
from cutaway.ground.errors import BadCheckpoint
from cutaway.ground.sites import all_sites
from cutaway.ground.writing import whole_file
from cutaway.text.pieces import Piece, Tokens

FORMAT = "cutaway trace 2"
TOKENS = ("ids", "mask", "positions")


def write(
    path: Path, values: Mapping[str, Tensor], tokens: Tokens, config: DecoderConfig, notes: dict[str, Any]
) -> None:
    """Write values by site as a .safetensors file, over an existing one. Raises BadArgument where it cannot.

    notes: further facts to store as JSON, by name.
    """
    parts = {f"values.{site}": value.contiguous() for site, value in values.items()}
    parts |= {f"tokens.{name}": getattr(tokens, name).contiguous() for name in TOKENS}
    about = {"config": asdict(config), "pieces": tokens.as_data()["pieces"], "words": notes}
    with whole_file(path, SafetensorError) as unfinished:  # safetensors' own error holds the system's
        save_file(parts, unfinished, {"format": FORMAT, "about": json.dumps(about)})


def read(path: Path) -> tuple[dict[str, Tensor], Tokens, DecoderConfig, dict[str, Any]]:
    """What `write` was given. Raises BadCheckpoint for another file, or an incomplete one."""
    if not path.is_file():
        raise BadCheckpoint(f"no file {path}", "a saved trace", "correct the path")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(f"{path}, which cannot be read ({error})", "a whole trace", "record it again") from error
    if metadata.get("format") != FORMAT:
        found = f"format {metadata.get('format')!r} in {path}"
        raise BadCheckpoint(found, repr(FORMAT), "record it again with this version of cutaway")
    about = json.loads(metadata["about"])
    config = config_of(about["config"])
    tokens = Tokens(*(tensors[f"tokens.{name}"] for name in TOKENS))
    if about["pieces"] is not None:
        tokens = replace(tokens, pieces=tuple(tuple(map(_piece, row)) for row in about["pieces"]))
    names = {site: f"values.{site}" for site in all_sites(config)}  # in the order of the forward pass
    return {s: tensors[name] for s, name in names.items() if name in tensors}, tokens, config, about["words"]


def _piece(data: dict[str, Any]) -> Piece:
    """A piece from what `as_data` made of it."""
    span = tuple(data["span"]) if data["span"] else None
    fields = {name: data[name] for name in ("id", "text", "special", "padding")}
    return Piece(**fields, bytes=bytes.fromhex(data["bytes"]), span=span)
