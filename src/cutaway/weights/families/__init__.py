"""One file a Hugging Face model_type, found by its name: its config in our facts, its weight names in ours.

A table's right side is a parameter of the decoder, `[q]` some of its rows, `.T` stored the other way round.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import UnsupportedModel
from cutaway.weights.config_reader import CONFIG, ConfigReader


class Family(Protocol):
    """What a family's file offers."""

    ARCHITECTURES: tuple[str, ...]  # of the language models that it means
    PREFIXES: tuple[str, ...]  # what may stand before every name, tried in order
    WEIGHTS: dict[str, str]  # checkpoint name → decoder parameter, {i} for the layer
    UNUSED: tuple[str, ...]  # checkpoint names that carry nothing

    def facts(self, config: ConfigReader) -> DecoderConfig: ...


def supported() -> list[str]:
    """The model types that have a file here."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def family_named(name: str) -> Family:
    """The family of a model_type that is in `supported`."""
    return cast(Family, importlib.import_module(f"{__name__}.{name}"))


def facts_of(config: Mapping[str, Any], note: Callable[[str], None], source: str = CONFIG) -> tuple[str, DecoderConfig]:
    """The model type of a config.json and our facts of it; note(line): what should be known of them.

    source: the file that says them, as errors name it.

    Raises UnsupportedModel for another family or a value that is not computed, BadCheckpoint for a wrong type.
    """
    name = _model_type(config, note)
    family = family_named(name)
    other = [kind for kind in _architectures(config) if "For" in kind]
    if other and not any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in other):
        found = f"architectures={other} in {source}, a {name} with another head than a language model's"
        raise UnsupportedModel(found, f"one of {', '.join(family.ARCHITECTURES)}", "choose the language model itself")
    reader = ConfigReader(config, name, getattr(family, "ALIASES", {}), source)
    facts = family.facts(reader)
    for line in reader.notes():
        note(line)
    return name, facts


def _model_type(config: Mapping[str, Any], note: Callable[[str], None]) -> str:
    """What config.json names; the oldest files name none, and are known by their architecture or attributes."""
    name = config.get("model_type")
    if name in supported():
        return str(name)
    families = {known: family_named(known) for known in supported()}
    if not name:
        for known, family in families.items():
            if set(_architectures(config)) & set(family.ARCHITECTURES):
                note(f"config.json names no model_type: taken as {known}, by its architecture")
                return known
        for known, family in families.items():
            wanted = getattr(family, "ATTRIBUTES", frozenset({"model_type"}))
            if wanted <= config.keys() and not _architectures(config):
                note(f"config.json names no model_type: taken as {known}, by its attributes")
                return known
    found = f"model_type={name!r}" if name else f"no model_type and architectures={_architectures(config)}"
    do = "choose a model of one of these families"
    raise UnsupportedModel(f"{found} in config.json", f"one of {', '.join(supported())}", do)


def _architectures(config: Mapping[str, Any]) -> list[str]:
    said = config.get("architectures")
    return [str(kind) for kind in said] if isinstance(said, list) else []
