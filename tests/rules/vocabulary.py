"""docs/vocabulary.md, made from ground/sites.py and ground/shapes.py: axes and sites, one name for one thing."""

from cutaway.ground.config import DecoderConfig, RopeConfig
from cutaway.ground.shapes import AXES
from cutaway.ground.sites import Site, block_sites, embed_sites, final_sites

SIZES = {
    "vocab_size": 11, "n_layers": 2, "d_model": 8, "n_heads": 4, "n_kv_heads": 2, "d_head": 2, "d_mlp": 16,
    "n_positions": 32, "norm_eps": 1e-5, "activation": "relu",
}  # fmt: skip
LEARNED = DecoderConfig(**SIZES, d_embed=4, norm="layer")  # type: ignore[arg-type]
ROTARY = DecoderConfig(**SIZES, d_embed=8, norm="rms", rope=RopeConfig(1e4, 2), gated=True,
                       qkv_bias=False, out_bias=False, mlp_bias=False)  # type: ignore[arg-type]  # fmt: skip
POST = DecoderConfig(**SIZES, d_embed=4, norm="layer", post_norm=True, final_norm=False)  # type: ignore[arg-type]

KINDS = {
    "Pre-norm, learned positions, projections (OPT, GPT-2; only models with E ≠ D project)": LEARNED,
    "Pre-norm, rotary positions, gated MLP (Llama)": ROTARY,
    "Post-norm (opt-350m)": POST,
}


def vocabulary() -> str:
    """The whole page."""
    lines = ["# Vocabulary", "", "Made from `ground/sites.py` and `ground/shapes.py`; a test keeps it true.", ""]
    lines += ["## Axes", "", "| letter | axis |", "| --- | --- |"]
    lines += [f"| {letter} | {axis} |" for letter, axis in AXES.items()]
    lines += [
        "",
        "## Sites",
        "",
        "In a block's formulas names are relative to `blocks.i.`, and `x` is the first parent.",
        "",
    ]
    for title, config in KINDS.items():
        lines += [f"### {title}", "", "| site | shape | formula |", "| --- | --- | --- |"]
        lines += [_row("", site) for site in embed_sites(config)]
        lines += [_row("blocks.i.", site) for site in block_sites(config, 0)]
        lines += [_row("", site) for site in final_sites(config)]
        lines += [""]
    return "\n".join(lines)


def _row(prefix: str, site: Site) -> str:
    return f"| `{prefix}{site.name}` | {site.shape} | `{site.formula}` |"


if __name__ == "__main__":
    print(vocabulary(), end="")
