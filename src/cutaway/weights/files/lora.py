"""A LoRA adapter as peft saves it: adapter_config.json and tensors become updates by the names of the layers.

It does not know the base model, nor how a family names its layers. What a setting means: peft 0.21, tuners/lora.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from cutaway.ground.errors import BadCheckpoint, ModelNotFound, UnsupportedModel
from cutaway.weights.files.lazy import LazyTensor
from cutaway.weights.files.recognize import ADAPTER, adapter_tensors, json_or_nothing, refuse_disguised
from cutaway.weights.files.safetensors import open_safetensors
from cutaway.weights.files.torch_bin import open_torch_bin

# Settings by which the values here are computed, and settings that say what was trained and how: the tensors decide,
# fan_in_fan_out too, which peft corrects by the kind of the layer.
READ = frozenset("r lora_alpha use_rslora rank_pattern alpha_pattern".split())
NO_EFFECT = frozenset(
    """auto_mapping base_model_class base_model_name_or_path bias corda_config eva_config exclude_modules fan_in_fan_out
    inference_mode init_lora_weights layers_pattern layers_to_transform loftq_config lora_dropout lora_ga_config
    megatron_config megatron_core modules_to_save parent_library peft_type peft_version qalora_group_size revision
    runtime_config target_modules task_type velora_config""".split()
)
KEEPS_BASE = (None, True, False, "gaussian", "orthogonal", "eva")  # init_lora_weights that leave the base as it is
UPDATE = re.compile(r"(?P<layer>.+)\.lora_(?P<table>embedding_)?(?P<side>[AB])(?:\.(?!weight$|bias$)\w+)?(?:\.weight)?")
MERGE = "merge it with peft's merge_and_unload(), save_pretrained to a new folder, and name that"


@dataclass(frozen=True)
class LowRank:
    """scale · B @ A, added to a layer's weight [N, K]: a [R, K], b [N, R]; to an embedding's transpose."""

    a: LazyTensor
    b: LazyTensor
    scale: float
    table: bool  # whether the layer is an embedding


@dataclass(frozen=True)
class Adapter:
    """updates: by the name of a layer in the base model. replaced: whole tensors, by name. revision: of the base."""

    folder: Path
    base: str | None
    revision: str | None
    updates: Mapping[str, LowRank]
    replaced: Mapping[str, LazyTensor]


def open_adapter(folder: Path) -> Adapter:
    """The adapter in a folder; of its tensors only names and shapes are read.

    Raises BadCheckpoint where a file is missing or the tensors do not fit the config, UnsupportedModel for another kind
    of adapter and for a setting that is not computed, by name and value.
    """
    config, file = _config(folder), adapter_tensors(folder)
    if file is None:
        found = f"no adapter_model.safetensors in {folder}, whose {ADAPTER} says that it is an adapter"
        raise BadCheckpoint(found, "its tensors beside it", "fetch that file too")
    tensors = (open_safetensors if file.suffix == ".safetensors" else open_torch_bin)(file)
    sides: dict[str, dict[str, LazyTensor]] = {}
    replaced: dict[str, LazyTensor] = {}
    tables = set()
    for name, tensor in tensors.items():
        bare = name.removeprefix("base_model.model.")
        if match := UPDATE.fullmatch(bare):
            sides.setdefault(match["layer"], {})[match["side"]] = tensor
            tables |= {match["layer"]} if match["table"] else set()
        elif ".original_module." not in bare:  # of the base, before modules_to_save
            replaced[re.sub(r"\.modules_to_save(\.default)?\.", ".", bare)] = tensor
    updates = {layer: _update(layer, ab, layer in tables, config, file) for layer, ab in sides.items()}
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    return Adapter(folder, str(base) if base else None, str(revision) if revision else None, updates, replaced)


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / ADAPTER).is_file():
        raise ModelNotFound(f"no {ADAPTER} in {folder}", "the folder of a LoRA adapter", "check its spelling")
    refuse_disguised(folder / ADAPTER, "a JSON object")
    config = json_or_nothing(folder / ADAPTER)
    wanted = {"peft_type": ("LORA",), "task_type": (None, "CAUSAL_LM"), "init_lora_weights": KEEPS_BASE}
    for name, values in wanted.items():
        if config.get(name) not in values:
            expected = f"{name}={' or '.join(repr(v) for v in values if v is not None)}"
            raise UnsupportedModel(f"{name}={config.get(name)!r} in {ADAPTER} in {folder}", expected, MERGE)
    for name, value in config.items():
        if name not in READ | NO_EFFECT and value not in (None, False, 0, "", [], {}):
            found = f"{name}={value!r} in {ADAPTER} in {folder}, which is not computed"
            raise UnsupportedModel(found, f"an adapter without {name}", MERGE)
    return config


def _update(layer: str, ab: dict[str, LazyTensor], table: bool, config: dict[str, Any], file: Path) -> LowRank:
    """One layer's update, its shapes checked against the rank that the config gives the layer."""
    rank = _of(layer, config.get("rank_pattern"), config.get("r", 8))
    alpha = _of(layer, config.get("alpha_pattern"), config.get("lora_alpha", 8))
    if ab.keys() != {"A", "B"}:
        found = f"only lora_{next(iter(ab))} for {layer} in {file.name}"
        raise BadCheckpoint(found, "both lora_A and lora_B", "fetch the adapter again")
    a, b = ab["A"], ab["B"]
    sound = type(rank) is int and rank > 0 and type(alpha) in (int, float)
    if not sound or len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:
        found = f"lora_A of shape {list(a.shape)} and lora_B of shape {list(b.shape)} for {layer} in {file.name}"
        expected = f"rank {rank} of both and a number as alpha ({alpha}), as {ADAPTER} says"
        raise BadCheckpoint(found, expected, "fetch both files of the adapter again")
    return LowRank(a, b, alpha / (sqrt(rank) if config.get("use_rslora") else rank), table)


def _of(layer: str, patterns: Any, default: Any) -> Any:
    """The value of the first pattern that a layer's name ends in (peft: get_pattern_key), else the default."""
    table = patterns if isinstance(patterns, Mapping) else {}
    return next((value for key, value in table.items() if re.match(rf"(.*\.)?({key})$", layer)), default)
