"""Rotary positions of a config.json as our facts, with transformers' meaning (modeling_rope_utils).

It does not compute angles (model/positions.py does), and does not know any one family.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cutaway.ground.config import RopeConfig
from cutaway.ground.errors import UnsupportedModel
from cutaway.weights.common import LAYER_TYPES
from cutaway.weights.config_reader import ConfigReader, leftover

KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope", "proportional")
# Attributes that change no angle.
SILENT = frozenset({"finetuned", "type", "rope_type", "rope_theta"})
Raw = dict[str, Any]


def read_rope(
    config: ConfigReader,
    d_head: int,
    n_positions: int,
    *,
    theta: float = 10000.0,
    partial: float | None = None,
    names: tuple[str, str] = ("rope_theta", "partial_rotary_factor"),
    original: int = 0,
    old_kinds: Mapping[str, str] | None = None,
    interleaved: bool = False,
    scaling: Raw | None = None,
) -> RopeConfig:
    """Rotary positions from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before).

    theta, partial, original, scaling: the family's defaults, the last in place of both dictionaries. partial None: all
    components of a head are rotated, and a partial factor is ignored where transformers ignores it. names: of the
    attributes for theta and the partial factor. old_kinds: today's names of kinds. Raises UnsupportedModel for a kind
    or a value that is not computed, BadCheckpoint where a kind's own numbers are missing.
    """
    new, old = config.take("rope_parameters", {}, dict), config.take("rope_scaling", {}, dict)
    raw: Raw = {"rope_theta": config.take(names[0], theta, float)}
    if partial is not None:
        raw["partial_rotary_factor"] = config.take(names[1], partial, float)
    context = config.take("original_max_position_embeddings", original, int)
    before = {"original_max_position_embeddings": context} if context else {}  # as in transformers, before the dict's
    raw |= (old or new or scaling or {}) | before
    kind = raw.get("rope_type", raw.get("type", "default"))
    raw["rope_type"] = (old_kinds or {}).get(kind, kind) if isinstance(kind, str) else kind
    return rope_of(config, raw, d_head, n_positions, partial is not None, interleaved)


def layer_ropes(
    config: ConfigReader, types: Sequence[str], d_head: int, n_positions: int, *, theta: float, local: float
) -> tuple[RopeConfig, ...]:
    """Rotary positions by layer, where those with a window (sliding_attention) have their own.

    theta, local: the defaults of both bases. `rope_scaling`, of before transformers 5, is of the others alone.
    """
    given: Raw = config.take("rope_parameters", {}, dict)
    if any(name not in LAYER_TYPES or not isinstance(value, dict | None) for name, value in given.items()):
        raise config.wrong(f"rope_parameters={given}", f"a dictionary for each of {' and '.join(LAYER_TYPES)}")
    own, base = given.get("full_attention") or {}, config.take("rope_theta", theta, float)
    raw = {
        "full_attention": {"rope_theta": base} | own | config.take("rope_scaling", {}, dict),
        "sliding_attention": {"rope_theta": local} | (given.get("sliding_attention") or {}),
    }
    ropes = {kind: rope_of(config, raw[kind], d_head, n_positions) for kind in dict.fromkeys(types)}
    return tuple(ropes[kind] for kind in types)


def rope_of(
    config: ConfigReader, raw: Raw, d_head: int, n_positions: int, partial: bool = False, interleaved: bool = False
) -> RopeConfig:
    """Rotary positions of one dictionary. partial: whether its partial_rotary_factor is read."""
    rope = ConfigReader(raw, "rotary positions", source=config.source)
    kind = rope.take("rope_type", rope.take("type", "default"))
    if kind not in KINDS:
        found = f"rope_type={kind!r} in {config.source}"
        raise UnsupportedModel(found, f"one of {', '.join(KINDS)}", "choose a model with one of those")
    partial = partial and kind != "proportional"  # whose share is of the pairs of a whole head
    share = rope.positive("partial_rotary_factor", 1.0) if partial else 1.0
    dims = int(d_head * share)
    if dims % 2 or not 0 < dims <= d_head:
        raise config.wrong(f"{dims} of a head's {d_head} components rotated", "an even number of them")
    facts = replace(_of_kind(rope, kind, dims, n_positions), interleaved=interleaved)
    if kind == "dynamic":
        config.note(f"rotary positions are as trained up to {n_positions}; dynamic scaling would begin beyond them")
    if kind == "longrope" and facts.original_context < n_positions:
        limit = f"{facts.original_context:,} tokens"
        config.note(f"a text with its new tokens of more than {limit} is rotated by longrope's long factors throughout")
    left = leftover({name: value for name, value in raw.items() if name not in rope.read | SILENT})
    if left and kind != "default":
        config.note(f"rope parameters of {config.source} also say {left}, which its kind {kind!r} does not read")
    return facts


def _of_kind(rope: ConfigReader, kind: str, dims: int, n_positions: int) -> RopeConfig:
    theta = float(rope.positive("rope_theta", 10000.0))
    if kind == "default":
        return RopeConfig(theta, dims)  # transformers reads nothing else here either
    if kind == "proportional":
        share = rope.positive("partial_rotary_factor", 1.0)
        return RopeConfig(theta, dims, kind, float(rope.positive("factor", 1.0)), pairs=int(share * dims // 2))
    if "partial_rotary_factor" not in rope.read:
        rope.require("partial_rotary_factor", 1.0, "would rotate only a part of each head")
    if kind == "longrope":
        return _longrope(rope, theta, dims, n_positions)
    factor = _number(rope, "factor", kind)
    if kind == "dynamic":  # its frequencies change beyond n_positions only, which no text exceeds
        return RopeConfig(theta, dims)
    if kind == "linear":
        return RopeConfig(theta, dims, "linear", factor)
    context = rope.size("original_max_position_embeddings", n_positions, optional=True)
    if kind == "llama3":
        low, high = _number(rope, "low_freq_factor", kind), _number(rope, "high_freq_factor", kind)
        return RopeConfig(theta, dims, "llama3", factor, context, low, high)
    # llama.cpp's and YaRN's own name; transformers ignores it, but the models were trained with it.
    rope.require("attn_factor", 1, "scales the rotated queries and keys")
    if theta == 1:
        raise rope.wrong("rope_theta=1 with rope_type='yarn'", "a base above 1")
    mscale, all_dim = rope.take("mscale", 0.0, float), rope.take("mscale_all_dim", 0.0, float)
    return RopeConfig(
        theta, dims, "yarn", factor, context,
        beta_fast=float(rope.positive("beta_fast", 32.0)),
        beta_slow=float(rope.positive("beta_slow", 1.0)),
        truncate=rope.take("truncate", True),
        attention_factor=float(rope.take("attention_factor", _yarn_strength(factor, mscale, all_dim), float)),
    )  # fmt: skip


def _longrope(rope: ConfigReader, theta: float, dims: int, n_positions: int) -> RopeConfig:
    factors = []
    for name in ("short_factor", "long_factor"):
        values: list[Any] = rope.take(name, [], list)
        numbers = [value for value in values if type(value) in (int, float) and 0 < value < math.inf]
        if len(values) != dims // 2 or len(numbers) < len(values):
            found = f"rope_type='longrope' with {len(values)} numbers as {name}"
            found = f"{found}, {len(numbers)} of them above 0" if len(numbers) < len(values) else found
            raise rope.wrong(found, f"{dims // 2} numbers above 0")
        factors.append(tuple(map(float, values)))
    context = rope.size("original_max_position_embeddings", n_positions, optional=True)
    if context < 2:
        raise rope.wrong(f"original_max_position_embeddings={context}", "at least 2")
    factor = rope.take("factor", n_positions / context, float)
    strength = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(context))
    strength = float(rope.take("attention_factor", strength, float))
    short, long = factors
    return RopeConfig(
        theta, dims, "longrope", original_context=context, attention_factor=strength,
        short_factors=short, long_factors=long,
    )  # fmt: skip


def _number(rope: ConfigReader, name: str, kind: str) -> float:
    if rope.config.get(name) is None:
        raise rope.wrong(f"rope_type={kind!r} without {name}", f"its {name}")
    return float(rope.positive(name, 1.0))


def _yarn_strength(factor: float, mscale: float, all_dim: float) -> float:
    def strength(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    return strength(mscale) / strength(all_dim) if mscale and all_dim else strength(1.0)
