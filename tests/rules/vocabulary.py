"""docs/vocabulary.md, made from ground/sites.py and ground/shapes.py: axes and sites, one name for one thing.

The formulas are those of the families' own configs, as weights/families reads them: OPT's with relu, Llama's with silu.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.ground.shapes import AXES
from cutaway.ground.sites import Site, block_sites, embed_sites, final_sites
from cutaway.weights.families import facts_of

KINDS = {
    "OPT: pre-norm, learned positions": {"model_type": "opt"},
    "opt-350m: post-norm, projected in and out, no final norm": {
        "model_type": "opt", "do_layer_norm_before": False, "word_embed_proj_dim": 512, "hidden_size": 1024,
        "num_attention_heads": 16,
    },
    "GPT-2: pre-norm, learned positions": {"model_type": "gpt2"},
    "Llama: pre-norm, rotary positions, gated MLP": {"model_type": "llama"},
}  # fmt: skip


def config_of(kind: str) -> DecoderConfig:
    """Our facts of a family's config, transformers' defaults where it says nothing."""
    return facts_of(KINDS[kind], lambda note: None)[1]


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
        "A model's own list, of whatever family: `cutaway trace --sites-list --model MODEL`.",
        "",
    ]
    for kind in KINDS:
        config = config_of(kind)
        lines += [f"### {kind}", "", "| site | shape | formula |", "| --- | --- | --- |"]
        lines += [_row("", site) for site in embed_sites(config)]
        lines += [_row("blocks.i.", site) for site in block_sites(config, 0)]
        lines += [_row("", site) for site in final_sites(config)]
        lines += [""]
    return "\n".join(lines)


def _row(prefix: str, site: Site) -> str:
    return f"| `{prefix}{site.name}` | {site.shape} | `{site.formula}` |"


if __name__ == "__main__":
    print(vocabulary(), end="")
