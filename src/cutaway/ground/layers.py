"""The table of weights: every matrix and gain of the decoder, the module that holds it, the sites it reads and writes.

Loading, weight edits, formulas, the codes of a layer and the engine read it. It knows no tensor and no file; what a
weight reads is the first parent of the site that it writes (ground/sites.py).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Literal

from cutaway.ground.config import DecoderConfig
from cutaway.ground.sites import Site, block_sites, embed_sites, final_sites

Kind = Literal["linear", "projection", "embedding", "norm", "sinks"]  # projection: linear and never in 8 bits
Line = tuple[str, str, Kind, bool, int, str]  # weight, module, kind, whether it has a bias, rows, site written


@dataclass(frozen=True)
class Weight:
    """Some rows of a module's weight, and of its bias where it has one.

    name: relative to the block ("W_Q", "ln1.w") or full ("W_U", "blocks.3.W_Q"), as are module, reads and writes. A
    formula writes `symbol`, and the bias as `bias` ("" where there is none). Of kind "norm" and "sinks" it is a vector.
    """

    name: str
    bias: str
    module: str
    kind: Kind
    rows: slice
    reads: str
    writes: str

    @property
    def symbol(self) -> str:
        return self.name.rpartition(".")[2]


@lru_cache(maxsize=16)
def block_weights(config: DecoderConfig) -> tuple[Weight, ...]:
    """The weights of one block, all names relative to it, in the order of the forward pass."""
    q, kv, d = config.n_heads * config.d_head, config.n_kv_heads * config.d_head, config.d_model
    attn_out = "attn.out" if config.scales_added else "attn_out"
    bias, qk_bias = config.norm_bias, config.qk_norm_bias
    by_head = config.qk_norm == "head"
    table: list[Line] = [
        ("ln1.w", "ln1", "norm", bias, d, "ln1.out"),
        ("W_Q", "attn.qkv", "linear", config.qkv_bias, q, "attn.q"),
        ("W_K", "attn.qkv", "linear", config.qkv_bias, kv, "attn.k"),
        ("W_V", "attn.qkv", "linear", config.qkv_bias, kv, "attn.v"),
        ("attn.q_norm.w", "attn.q_norm", "norm", qk_bias, config.d_head if by_head else q, "attn.q_norm.out"),
        ("attn.k_norm.w", "attn.k_norm", "norm", qk_bias, config.d_head if by_head else kv, "attn.k_norm.out"),
        ("attn.sinks", "attn.sinks", "sinks", False, config.n_heads, "attn.pattern" if config.attn_sinks else ""),
        ("W_O", "attn.out", "linear", config.out_bias, d, attn_out),
        ("ln1_post.w", "ln1_post", "norm", bias, d, "attn_out" if config.added_norm else ""),
        ("ln2.w", "ln2", "norm", bias, d, "ln2.out"),
        ("ln2_post.w", "ln2_post", "norm", bias, d, "mlp_out" if config.added_norm else ""),
    ]
    return _weights(config, [*table, *_mlp_lines(config)], block_sites(config, 0))


def _mlp_lines(config: DecoderConfig) -> list[Line]:
    """Of the MLP; of a mixture of experts the router's and each expert's, whose formulas name them alike."""
    pre, pre_linear = ("mlp.pre", "mlp.pre_linear") if config.gated else ("", "mlp.pre")
    out, f, bias = "mlp.out" if config.scales_added else "mlp_out", config.d_mlp, config.mlp_bias

    def lines(name: str, module: str) -> list[Line]:
        return [
            (f"{name}W_gate", f"{module}up", "linear", bias, f, pre),
            (f"{name}W_up", f"{module}up", "linear", bias, f, pre_linear),
            (f"{name}W_down", f"{module}down", "linear", bias, config.d_model, out),
        ]

    if not config.n_experts:
        return lines("", "mlp.")
    experts = [f"mlp.experts.{i}." for i in range(config.n_experts)]
    router: Line = ("W_router", "mlp.router", "projection", config.router_bias, config.n_experts, "mlp.router_logits")
    return [router, *(line for expert in experts for line in lines(expert, expert))]


def expert_of(module: str) -> int | None:
    """Which expert of a mixture a module belongs to; None where to none."""
    found = re.search(r"(?:^|\.)mlp\.experts\.(\d+)\.", module)
    return None if found is None else int(found[1])


def block_layers(config: DecoderConfig) -> dict[str, tuple[Weight, ...]]:
    """The modules of one block in the order of the forward pass, each with the weights packed in it, by rows."""
    return {module: tuple(parts) for module, parts in groupby(block_weights(config), lambda weight: weight.module)}


@lru_cache(maxsize=16)
def all_weights(config: DecoderConfig) -> Mapping[str, Weight]:
    """Every weight of a model by its full name, in the order of the forward pass."""
    v, d, e, positions = config.vocab_size, config.d_model, config.d_embed, config.n_positions + config.position_offset
    table: list[Line] = [
        ("W_E", "embed.token", "embedding", False, v, "embed.token"),
        ("W_in", "embed.project_in", "projection", False, d, "embed.projected"),
        ("W_pos", "embed.position", "embedding", False, positions, "embed.position"),
        ("embed_ln.w", "embed.ln", "norm", config.norm_bias, d, "embed_ln.out"),
        ("ln_final.w", "unembed.ln_final", "norm", config.norm_bias, d, "ln_final.out"),
        ("W_out", "unembed.project_out", "projection", False, e, "logits" if config.projected else ""),
        ("W_U", "unembed.head", "linear", config.head_bias, v, "logits"),
    ]
    blocks = [
        replace(w, **{field: f"blocks.{i}.{getattr(w, field)}" for field in ("name", "module", "reads", "writes")})
        for i in range(config.n_layers)
        for w in block_weights(config)
    ]
    weights = (*_weights(config, table, embed_sites(config)), *blocks, *_weights(config, table, final_sites(config)))
    return {weight.name: weight for weight in weights}


def site_weights(config: DecoderConfig, site: str) -> list[Weight]:
    """The weights that a site's formula names: none, one, or two for logits that are projected out first."""
    return [weight for weight in all_weights(config).values() if weight.writes == site]


def _weights(config: DecoderConfig, table: Iterable[Line], sites: Iterable[Site]) -> tuple[Weight, ...]:
    """The weights that write one of these sites, in the order of the sites."""
    reads = {site.name: site.parents[0] for site in sites}
    weights, filled = [], {}  # filled: a module's rows so far
    for name, module, kind, bias, rows, writes in table:
        if writes in reads and (config.norm_gain or kind != "norm"):
            start = filled.get(module, 0)
            filled[module] = start + rows
            b = f"b{name.rpartition('.')[2][1:]}" if bias else ""  # of W_Q b_Q, of ln1.w b
            weights.append(Weight(name, b, module, kind, slice(start, start + rows), reads[writes], writes))
    return tuple(sorted(weights, key=lambda weight: list(reads).index(weight.writes)))
