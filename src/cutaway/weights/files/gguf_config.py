"""The config.json that a GGUF's metadata implies, by the table of its architecture.

It does not know what an attribute means to a family, nor tensors beyond which there are.
"""

import math
import re
from typing import Any

from cutaway.weights.families import family_named
from cutaway.weights.files.gguf_architectures import ARCHITECTURES, LAYER, SIZES, VARIANTS, Architecture
from cutaway.weights.files.gguf_format import GGUF, damaged
from cutaway.weights.files.gguf_metadata import WINDOW, Metadata
from cutaway.weights.files.gguf_rope import rope_scaling

FULL, LOCAL = "full_attention", "sliding_attention"
EPSILON = 1e-05  # of OLMo's norms, in every config.json
PATTERN = f"{WINDOW}_pattern"


def architecture_of(gguf: GGUF, metadata: Metadata) -> Architecture:
    """The table of a file whose architecture has one."""
    name = metadata.prefix.removesuffix(".")
    key, variant = VARIANTS.get(name, ("", None))
    return variant if variant is not None and metadata.raw(key) else ARCHITECTURES[name]


def config_of(gguf: GGUF, metadata: Metadata, table: Architecture) -> dict[str, Any]:
    """config.json's attributes that change values. Raises as Metadata does."""
    metadata.require("attention.causal", bool, True)
    if "expert_count" not in table.sizes:
        metadata.require("expert_count", int, 0)
    width, heads = metadata.take("embedding_length", int), metadata.take("attention.head_count", int)
    d_head = metadata.take("attention.key_length", int, width // max(heads, 1))
    metadata.require("attention.value_length", int, d_head)
    config: dict[str, Any] = table.given | {"num_hidden_layers": metadata.layers()}
    if table.head_dim:
        config["head_dim"] = d_head
    for key, attribute in (SIZES | table.sizes).items():
        if attribute is not None:
            config[attribute] = metadata.take(key, int, heads if key == "attention.head_count_kv" else None)
    for key in (key for key, attribute in table.sizes.items() if attribute is None):
        implied = {"attention.head_count_kv": _kv_heads(table, heads), "feed_forward_length": 4 * width}
        metadata.require(key, int, implied[key])
    if table.epsilon is not None:
        config[table.epsilon[1]] = metadata.decimal(table.epsilon[0])
    elif (epsilon := metadata.decimal(LAYER, EPSILON)) != EPSILON:
        raise metadata.refused(LAYER, epsilon, f"{EPSILON}")
    for key, (attribute, *default) in table.keys.items():
        _put(config, attribute, _number(metadata, key, default))
    config |= {attribute: _some(gguf, pattern) for attribute, pattern in table.present.items()}
    config |= {attribute: not _some(gguf, pattern) for attribute, pattern in table.absent.items()}
    if table.wide is not None:  # which models llama.cpp scales how: by their number of layers
        config["query_pre_attn_scalar"] = width // heads if config["num_hidden_layers"] == table.wide else d_head
    if table.two_norms is not None:
        config[table.two_norms] = 2 if _some(gguf, r"attn_norm_2\.weight") else 1
    config |= _windows(gguf, metadata, table) | _rope(gguf, metadata, table, d_head)
    aliases: dict[str, str] = getattr(family_named(table.model_type), "ALIASES", {})
    return {aliases.get(name, name): value for name, value in config.items()}


def _kv_heads(table: Architecture, heads: int) -> int:
    return 1 if table.given.get("multi_query") else heads


def _number(metadata: Metadata, key: str, default: list[Any]) -> Any:
    """A number or a flag; 0 is none where the default is null."""
    if key not in metadata and default:
        return default[0]
    if isinstance(metadata.gguf.metadata.get(metadata.prefix + key), bool):
        return metadata.take(key, bool)
    return metadata.decimal(key) or (default[0] if default and default[0] is None else 0.0)


def _put(config: dict[str, Any], attribute: str, value: Any) -> None:
    """Under its name, or that of a dictionary and its name there; nowhere where the table has no name."""
    outer, _, inner = attribute.rpartition(".")
    if inner:
        (config.setdefault(outer, {}) if outer else config)[inner] = value


def _some(gguf: GGUF, pattern: str) -> bool:
    return any(re.fullmatch(rf"blk\.\d+\.{pattern}", name) for name in gguf.tensors)


def _windows(gguf: GGUF, metadata: Metadata, table: Architecture) -> dict[str, Any]:
    """The window's width, and which layers have it where the file says so; the family's own layers otherwise."""
    if not table.window:
        return {}
    width, n_layers = metadata.take(WINDOW, int, table.window_default), metadata.layers()
    pattern = metadata.raw(PATTERN)
    if isinstance(pattern, int) and not isinstance(pattern, bool) and pattern > 0:
        pattern = [(i + 1) % pattern != 0 for i in range(n_layers)]
    if pattern is not None and (not isinstance(pattern, list) or len(pattern) < n_layers):
        raise damaged(gguf.path, f"{metadata.prefix}{PATTERN}={str(pattern)[:40]} for {n_layers} layers")
    if not table.layer_types:
        return {"sliding_window": width or None}
    if not width:
        return {"sliding_window": None, "layer_types": [FULL] * n_layers}
    types = {"layer_types": [LOCAL if local else FULL for local in pattern[:n_layers]]} if pattern else {}
    return {"sliding_window": width} | types


def _rope(gguf: GGUF, metadata: Metadata, table: Architecture, d_head: int) -> dict[str, Any]:
    """Rotary positions: base, share and scaling; of layers with a window and those without, where they differ."""
    if not table.rotary:
        return {}
    dims = metadata.take("rope.dimension_count", int, d_head)
    if len(table.rotary) == 1:
        metadata.require("rope.dimension_count", int, d_head)
    theta, context = metadata.decimal("rope.freq_base", 10000.0), metadata.take("context_length", int)
    scaling = rope_scaling(gguf, metadata, theta, dims, context)
    if not table.truncate:
        scaling = (scaling or {"rope_type": "default"}) | {"truncate": False}
    if table.local is not None:
        local = metadata.decimal("rope.freq_base_swa", table.local or theta)
        own = {"rope_type": "default", "rope_theta": theta} | (scaling or {})
        return {"rope_parameters": {FULL: own, LOCAL: {"rope_type": "default", "rope_theta": local}}}
    share = dims / max(d_head, 1)
    if int(d_head * share) < dims:  # the quotient was rounded down
        share = math.nextafter(share, 2.0)
    rotary = dict(zip(table.rotary, (theta, share), strict=False))
    if scaling and scaling["rope_type"] == "longrope":  # Phi-3 has it beside the dictionary
        rotary["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
    return rotary | ({"rope_scaling": scaling} if scaling else {})
