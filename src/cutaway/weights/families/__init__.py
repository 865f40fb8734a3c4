"""One file for each Hugging Face model_type, found by its name: its config as our facts, its weight names as ours.

A table's right side is a parameter of the decoder; `[q]` are some of its rows, `.T` means stored as [in, out]. It knows
no single family.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import UnsupportedModel
from cutaway.weights.config_reader import CONFIG, ConfigReader
from cutaway.weights.text_part import TYPES


class Family(Protocol):
    """What a family's file defines. Optional: ALIASES, {transformers' attribute: the name in config.json}, and
    ATTRIBUTES, the set by which a config.json without a model_type is recognized."""

    ARCHITECTURES: tuple[str, ...]  # transformers' classes with a language model's head
    PREFIXES: tuple[str, ...]  # of all names in a checkpoint, tried in order
    WEIGHTS: dict[str, str]  # checkpoint name → decoder parameter, {i} for the layer
    UNUSED: tuple[str, ...]  # checkpoint names without a parameter

    def facts(self, config: ConfigReader) -> DecoderConfig: ...


def supported() -> list[str]:
    """The model types with a file here."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def family_named(name: str) -> Family:
    """The family of a model_type that is in `supported`."""
    return cast(Family, importlib.import_module(f"{__name__}.{name}"))


def facts_of(config: Mapping[str, Any], note: Callable[[str], None], source: str = CONFIG) -> tuple[str, DecoderConfig]:
    """The model type and our facts of a config.json. note(line): decisions. source: the file's name in errors.

    Raises UnsupportedModel for another family or a value that is not computed, BadCheckpoint for a wrong type.
    """
    name = _model_type(config, note)
    family = family_named(name)
    other = [kind for kind in _architectures(config) if "For" in kind]
    if other and not any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in other):
        found = f"architectures={other} in {source}, a {name} with another head than a language model's"
        raise UnsupportedModel(found, f"one of {', '.join(family.ARCHITECTURES)}", "choose the language model itself")
    reader = ConfigReader(config, name, getattr(family, "ALIASES", {}), source)
    facts = facts_from(reader)
    for line in reader.notes():
        note(line)
    return name, facts


def facts_from(reader: ConfigReader) -> DecoderConfig:
    """Our facts of the config that a reader has, with what transformers reads of every family's (masking_utils)."""
    reader.require("is_causal", True, "lets a token attend to later ones")
    return family_named(reader.family).facts(reader)


def _model_type(config: Mapping[str, Any], note: Callable[[str], None]) -> str:
    """config.json's model_type; the oldest files have none, and are recognized by architecture or attributes."""
    name = config.get("model_type")
    if name in supported():
        return str(name)
    families = {model_type: family_named(model_type) for model_type in supported()}
    if not name:
        for model_type, family in families.items():
            if set(_architectures(config)) & set(family.ARCHITECTURES):
                note(f"config.json names no model_type: taken as {model_type}, by its architecture")
                return model_type
        for model_type, family in families.items():
            required = getattr(family, "ATTRIBUTES", frozenset({"model_type"}))
            if required <= config.keys() and not _architectures(config):
                note(f"config.json names no model_type: taken as {model_type}, by its attributes")
                return model_type
    inner = config.get("text_config")
    if isinstance(inner, Mapping) and inner.get("model_type") in supported():
        found = f"model_type={name!r} in config.json, a multimodal model around a {inner['model_type']}"
        expected = f"one whose text half runs as it does alone, of {', '.join(sorted(TYPES))}"
        raise UnsupportedModel(found, expected, f"choose one of these, or a {inner['model_type']} by itself")
    found = f"model_type={name!r}" if name else f"no model_type and architectures={_architectures(config)}"
    do = "choose a model of one of these families"
    raise UnsupportedModel(f"{found} in config.json", f"one of {', '.join(supported())}", do)


def _architectures(config: Mapping[str, Any]) -> list[str]:
    names = config.get("architectures")
    return [str(kind) for kind in names] if isinstance(names, list) else []
