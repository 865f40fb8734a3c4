"""The table of values: every site of the decoder with its shape, its parents and its formula, as data.

A formula is a Python expression over the parents' names (relative to the block where they are in it), the weights of
ground/layers.py (W_Q, b_Q, ...) and a few functions (softmax, heads, rotate, ...). explain/formula.py evaluates them; a
test holds every value of every family to its formula. This file knows no tensor.
"""

from dataclasses import dataclass
from functools import lru_cache

from cutaway.ground.config import DecoderConfig


@dataclass(frozen=True)
class Site:
    """One named value.

    name: relative to its block ("attn.q"), or full ("logits") outside blocks.
    shape: axes as letters, see ground/shapes.py.
    parents: the values that it is computed from, named likewise, or in full where they are computed outside the block.
    formula: Python expression over the parents, see the module docstring.
    """

    name: str
    shape: str
    parents: tuple[str, ...]
    formula: str


def embed_sites(config: DecoderConfig) -> list[Site]:
    """Sites before the first block, in the order of the forward pass."""
    sites = [Site("embed.token", "B T E", ("ids",), "W_E[ids]")]
    if config.projected:
        sites.append(Site("embed.projected", "B T D", ("embed.token",), "embed.token @ W_in.T"))
    if config.rope is None:
        formula = "W_pos[at_least(positions + position_offset, 0)]"
        sites.append(Site("embed.position", "B T D", ("positions",), formula))
    return sites


def block_sites(config: DecoderConfig, layer: int) -> list[Site]:
    """Sites of one block, in the order of the forward pass."""
    post = config.post_norm
    first_norm = _norm_sites(config, "ln1", "resid_mid" if post else "resid_pre")
    second_norm = _norm_sites(config, "ln2", "resid_post" if post else "resid_mid")
    attention = _attention_sites(config, "resid_pre" if post else "ln1.out")
    mlp = _mlp_sites(config, "ln1.out" if post else "ln2.out")
    mid = [Site("resid_mid", "B T D", ("resid_pre", "attn_out"), "resid_pre + attn_out")]
    carried = "ln1.out" if post else "resid_mid"
    end = [Site("resid_post", "B T D", (carried, "mlp_out"), f"{carried} + mlp_out")]
    if post:
        return [_entry(config, layer), *attention, *mid, *first_norm, *mlp, *end, *second_norm]
    return [_entry(config, layer), *first_norm, *attention, *mid, *second_norm, *mlp, *end]


def final_sites(config: DecoderConfig) -> list[Site]:
    """Sites after the last block."""
    last = block_exit(config, config.n_layers - 1)
    read = "ln_final.out" if config.final_norm else last
    out = " @ W_out.T" if config.projected else ""
    logits = Site("logits", "B T V", (read,), f"{'x' if read == last else read}{out} @ W_U.T")
    return [*(_norm_sites(config, "ln_final", last) if config.final_norm else []), logits]


def all_sites(config: DecoderConfig) -> dict[str, Site]:
    """Every site of a model by its full name, in the order of the forward pass."""
    return dict(_all_sites(config))


@lru_cache(maxsize=16)  # a trace looks it up several times
def _all_sites(config: DecoderConfig) -> dict[str, Site]:
    table = {site.name: site for site in embed_sites(config)}
    for layer in range(config.n_layers):
        table |= {f"blocks.{layer}.{site.name}": site for site in block_sites(config, layer)}
    return table | {site.name: site for site in final_sites(config)}


def block_exit(config: DecoderConfig, layer: int) -> str:
    """Full name of the value that leaves a block: the residual stream between this block and the next."""
    return f"blocks.{layer}.{'ln2.out' if config.post_norm else 'resid_post'}"


def parents_of(config: DecoderConfig, name: str) -> list[str]:
    """Full names of the values that a site is computed from; ids, mask and positions are the tokens', and left out."""
    table = all_sites(config)
    block = name[: name.index(".", 7) + 1] if name.startswith("blocks.") else ""
    given = [parent for parent in table[name].parents if parent not in ("ids", "mask", "positions")]
    return [block + parent if block + parent in table else parent for parent in given]


def clean_name(name: str) -> str:
    """A site's name with TransformerLens's `hook_` removed."""
    return name.replace("hook_", "")


def _entry(config: DecoderConfig, layer: int) -> Site:
    if layer:
        return Site("resid_pre", "B T D", (block_exit(config, layer - 1),), "x")
    token = "embed.projected" if config.projected else "embed.token"
    parents = (token, "embed.position") if config.rope is None else (token,)
    return Site("resid_pre", "B T D", parents, " + ".join(parents))


def _norm_sites(config: DecoderConfig, name: str, read: str) -> list[Site]:
    """`x` in these formulas is the first parent."""
    if config.norm == "layer":
        scale, normalized, out = "sqrt(variance(x) + eps)", f"(x - mean(x)) / {name}.scale", " * w + b"
    else:
        scale, normalized, out = "sqrt(mean(x * x) + eps)", f"x / {name}.scale", " * w"
    return [
        Site(f"{name}.scale", "B T 1", (read,), scale),
        Site(f"{name}.normalized", "B T D", (read, f"{name}.scale"), normalized),
        Site(f"{name}.out", "B T D", (f"{name}.normalized",), f"{name}.normalized{out}"),
    ]


def _attention_sites(config: DecoderConfig, read: str) -> list[Site]:
    def projection(letter: str, axis: str) -> Site:
        bias = f" + b_{letter}" if config.qkv_bias else ""
        name = f"attn.{letter.lower()}"
        return Site(name, f"B T {axis} K", (read,), f"heads(x @ W_{letter}.T{bias})")

    sites = [projection("Q", "H"), projection("K", "G"), projection("V", "G")]
    q, k = "attn.q", "attn.k"
    if config.rope is not None:
        sites.append(Site("attn.rot_q", "B T H K", (q, "positions"), f"rotate({q}, positions)"))
        sites.append(Site("attn.rot_k", "B T G K", (k, "positions"), f"rotate({k}, positions)"))
        q, k = "attn.rot_q", "attn.rot_k"
    scores = f"hide(dot({q}, shared({k})) / sqrt(d_head))"
    bias = " + b_O" if config.out_bias else ""
    return [
        *sites,
        Site("attn.scores", "B H T S", (q, k, "mask"), scores),
        Site("attn.pattern", "B H T S", ("attn.scores",), "softmax(attn.scores)"),
        Site("attn.z", "B T H K", ("attn.pattern", "attn.v"), "mix(attn.pattern, shared(attn.v))"),
        Site("attn_out", "B T D", ("attn.z",), f"concat_heads(attn.z) @ W_O.T{bias}"),
    ]


def _mlp_sites(config: DecoderConfig, read: str) -> list[Site]:
    b_up, b_gate, b_down = (" + b_up", " + b_gate", " + b_down") if config.mlp_bias else ("", "", "")
    act = config.activation
    down = Site("mlp_out", "B T D", ("mlp.post",), f"mlp.post @ W_down.T{b_down}")
    if not config.gated:
        return [
            Site("mlp.pre", "B T F", (read,), f"x @ W_up.T{b_up}"),
            Site("mlp.post", "B T F", ("mlp.pre",), f"{act}(mlp.pre)"),
            down,
        ]
    return [
        Site("mlp.pre", "B T F", (read,), f"x @ W_gate.T{b_gate}"),
        Site("mlp.pre_linear", "B T F", (read,), f"x @ W_up.T{b_up}"),
        Site("mlp.post", "B T F", ("mlp.pre", "mlp.pre_linear"), f"{act}(mlp.pre) * mlp.pre_linear"),
        down,
    ]
