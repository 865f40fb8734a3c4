"""docs/vocabulary.md, made from ground/sites.py and ground/shapes.py: axes and sites, one name for one thing.

The formulas are those of the families' own configs, as weights/families reads them: OPT's with relu, Llama's with silu.
Four kinds of model are listed in full, of the other types what none of those has.
"""

from typing import Any

from cutaway.ground.config import DecoderConfig
from cutaway.ground.shapes import AXES
from cutaway.ground.sites import Site, block_sites, embed_sites, final_sites
from cutaway.weights.families import facts_of, supported

KINDS = {
    "OPT: pre-norm, learned positions": {"model_type": "opt"},
    "opt-350m: post-norm, projected in and out, no final norm": {
        "model_type": "opt", "do_layer_norm_before": False, "word_embed_proj_dim": 512, "hidden_size": 1024,
        "num_attention_heads": 16,
    },
    "GPT-2: pre-norm, learned positions": {"model_type": "gpt2"},
    "Llama: pre-norm, rotary positions, gated MLP": {"model_type": "llama"},
}  # fmt: skip


# Options that a type's defaults leave off and that add sites or change formulas.
OPTIONS: dict[str, dict[str, Any]] = {
    "granite": {"residual_multiplier": 0.22, "embedding_multiplier": 12.0, "logits_scaling": 16.0},
    "olmo": {"clip_qkv": 8.0},
    "cohere": {"use_qk_norm": True},
    "stablelm": {"qk_layernorm": True},
    "mpt": {"attn_config": {"clip_qkv": 8.0}},
}


# Of the sites in the forward pass, the beginnings of their names.
ORDER = (
    "embed.", "embed_ln", "resid_pre", "ln1.", "attn.q_norm", "attn.k_norm", "attn.q", "attn.k", "attn.v", "attn.rot",
    "attn.scores", "attn.pattern",
    "attn.out", "ln1_post", "attn_out", "ln2.", "mlp.router_logits", "mlp.router_scores",
    "mlp.pre", "mlp.post", "mlp.out", "ln2_post", "mlp_out",
    "resid_post", "ln_final", "logits",
)  # fmt: skip


def config_of(kind: str) -> DecoderConfig:
    """Our facts of a family's config, transformers' defaults where it says nothing."""
    return facts_of(KINDS[kind], lambda note: None)[1]


def others() -> list[str]:
    """The types that are not listed in full."""
    return [name for name in supported() if name not in {config["model_type"] for config in KINDS.values()}]


def vocabulary() -> str:
    """The whole page."""
    lines = ["# Vocabulary", "", "Made from `ground/sites.py`, `ground/shapes.py` and the families' default configs;"]
    lines += ["a test keeps it true.", "", "## Axes", "", "| letter | axis |", "| --- | --- |"]
    lines += [f"| {letter} | {axis} |" for letter, axis in AXES.items()]
    lines += [
        "",
        "## Sites",
        "",
        "In a block's formulas names are relative to `blocks.i.`, and `x` is the first parent.",
        "A model's own list, of whatever family: `cutaway model --sites --model MODEL`.",
        "",
    ]
    for kind in KINDS:
        lines += [f"### {kind}", "", "| site | shape | formula |", "| --- | --- | --- |", *_rows(config_of(kind)), ""]
    lines += ["### The other types", "", "What none of these four has, and which types have it.", ""]
    lines += ["The experts that a token chose are those whose `mlp.router_scores` are not 0; they have no site.", ""]
    lines += ["| site | shape | formula | types |", "| --- | --- | --- | --- |"]
    known = {row for kind in KINDS for row in _rows(config_of(kind))}
    types: dict[str, list[str]] = {}
    for name in others():
        for row in _rows(facts_of({"model_type": name} | OPTIONS.get(name, {}), lambda note: None)[1]):
            if row not in known:
                types.setdefault(row, []).append(name)
    lines += [f"{row} {', '.join(names)} |" for row, names in sorted(types.items(), key=_place)]
    return "\n".join([*lines, ""])


def _place(row: tuple[str, list[str]]) -> int:
    """Where a row's site stands in the forward pass."""
    site = row[0].split("`")[1].removeprefix("blocks.i.")
    return next(i for i, name in enumerate(ORDER) if site.startswith(name))


def _rows(config: DecoderConfig) -> list[str]:
    return [
        *(_row("", site) for site in embed_sites(config)),
        *(_row("blocks.i.", site) for site in block_sites(config, 0)),
        *(_row("", site) for site in final_sites(config)),
    ]


def _row(prefix: str, site: Site) -> str:
    return f"| `{prefix}{site.name}` | {site.shape} | `{site.formula}` |"


if __name__ == "__main__":
    print(vocabulary(), end="")
