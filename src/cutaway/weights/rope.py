"""Rotary positions of a config.json as our facts, with transformers' meaning (modeling_rope_utils).

It does not compute angles (model/positions.py does), and does not know any one family.
"""

import math
from typing import Any

from cutaway.ground.config import RopeConfig
from cutaway.ground.errors import UnsupportedModel
from cutaway.weights.config_reader import ConfigReader, leftover

KINDS = ("default", "linear", "dynamic", "llama3", "yarn")
# Attributes that change no angle.
SILENT = frozenset({"finetuned", "type", "rope_type", "rope_theta"})


def read_rope(config: ConfigReader, d_head: int, n_positions: int) -> RopeConfig:
    """Rotary positions from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before).

    All components of a head are rotated: `partial_rotary_factor` is ignored where transformers ignores it. Raises
    UnsupportedModel for a kind or a value that is not computed, BadCheckpoint where a kind's own numbers are missing.
    """
    new, old = config.take("rope_parameters", {}, dict), config.take("rope_scaling", {}, dict)
    theta = config.take("rope_theta", 10000.0, float)
    raw: dict[str, Any] = {"rope_theta": theta} | (old or new)
    context = config.take("original_max_position_embeddings", 0, int)
    if context:  # as in transformers, it comes before the one in the dictionary
        raw |= {"original_max_position_embeddings": context}
    rope = ConfigReader(raw, "rotary positions", source=config.source)
    kind = rope.take("rope_type", rope.take("type", "default"))
    if kind not in KINDS:
        found = f"rope_type={kind!r} in {config.source}"
        raise UnsupportedModel(found, f"one of {', '.join(KINDS)}", "choose a model with one of those")
    facts = _of_kind(rope, kind, d_head, n_positions)
    if kind == "dynamic":
        config.note(f"rotary positions are as trained up to {n_positions}; dynamic scaling would begin beyond them")
    left = leftover({name: value for name, value in raw.items() if name not in rope.read | SILENT})
    if left and kind != "default":
        config.note(f"rope parameters of {config.source} also say {left}, which its kind {kind!r} does not read")
    return facts


def _of_kind(rope: ConfigReader, kind: str, dims: int, n_positions: int) -> RopeConfig:
    theta = float(rope.take("rope_theta", 10000.0, float))
    if kind == "default":
        return RopeConfig(theta, dims)  # transformers reads nothing else here either
    rope.require("partial_rotary_factor", 1.0, "would rotate only a part of each head")
    factor = _number(rope, "factor", kind)
    if kind == "dynamic":  # its frequencies change beyond n_positions only, which no text exceeds
        return RopeConfig(theta, dims)
    if kind == "linear":
        return RopeConfig(theta, dims, "linear", factor)
    context = rope.take("original_max_position_embeddings", n_positions, int)
    if kind == "llama3":
        low, high = _number(rope, "low_freq_factor", kind), _number(rope, "high_freq_factor", kind)
        return RopeConfig(theta, dims, "llama3", factor, context, low, high)
    # llama.cpp's and YaRN's own name; transformers ignores it, but the models were trained with it.
    rope.require("attn_factor", 1, "scales the rotated queries and keys")
    mscale, all_dim = rope.take("mscale", 0.0, float), rope.take("mscale_all_dim", 0.0, float)
    return RopeConfig(
        theta, dims, "yarn", factor, context,
        beta_fast=float(rope.take("beta_fast", 32.0, float) or 32),
        beta_slow=float(rope.take("beta_slow", 1.0, float) or 1),
        truncate=rope.take("truncate", True),
        attention_factor=float(rope.take("attention_factor", _yarn_strength(factor, mscale, all_dim), float)),
    )  # fmt: skip


def _number(rope: ConfigReader, name: str, kind: str) -> float:
    if rope.config.get(name) is None:
        raise rope.wrong(f"rope_type={kind!r} without {name}", f"its {name}")
    return float(rope.take(name, 1.0, float))


def _yarn_strength(factor: float, mscale: float, all_dim: float) -> float:
    def strength(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    return strength(mscale) / strength(all_dim) if mscale and all_dim else strength(1.0)
