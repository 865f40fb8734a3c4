"""One file a Hugging Face model_type, found by its name: its config in our facts, its weight names in ours.

A table's right side is a parameter of the decoder, `[q]` some of its rows, `.T` stored the other way round.
"""

import importlib
import pkgutil
from typing import Any, Protocol, cast

from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import UnsupportedModel


class Family(Protocol):
    """What a family's file offers."""

    PREFIXES: tuple[str, ...]  # what may stand before every name, tried in order
    WEIGHTS: dict[str, str]  # checkpoint name → decoder parameter, {i} for the layer
    UNUSED: tuple[str, ...]  # checkpoint names that carry nothing

    def facts(self, config: dict[str, Any]) -> DecoderConfig: ...


def supported() -> list[str]:
    """The model types that have a file here."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "facts")


def family_of(config: dict[str, Any]) -> Family:
    """The family that config.json names. Raises UnsupportedModel with the list of those supported."""
    name = config.get("model_type")
    if name not in supported():
        found = f"model_type={name!r} in config.json"
        raise UnsupportedModel(found, f"one of {', '.join(supported())}", "choose a model of one of these families")
    return cast(Family, importlib.import_module(f"{__name__}.{name}"))
