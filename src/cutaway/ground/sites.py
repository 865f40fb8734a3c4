"""The table of values: every site of the decoder with its shape, its parents and its formula, as data.

A formula is a Python expression over the parents' names (relative to the block where they are in it), the weights of
ground/layers.py (W_Q, b_Q, ...) and a few functions (softmax, heads, rotate, ...). explain/formula.py evaluates them; a
test holds every value of every family to its formula. This file knows no tensor.
"""

from dataclasses import dataclass, replace
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
    scale = " * embed_scale" if config.embed_scale != 1 else ""
    sites = [Site("embed.token", "B T E", ("ids",), f"W_E[ids]{scale}")]
    if config.projected:
        sites.append(Site("embed.projected", "B T D", ("embed.token",), "embed.token @ W_in.T"))
    if config.embed_norm:
        sites += _norm_sites(config, "embed_ln", sites[-1].name)
    if config.learned_positions:
        formula = "W_pos[at_least(positions + position_offset, 0)]"
        sites.append(Site("embed.position", "B T D", ("positions",), formula))
    return sites


def block_sites(config: DecoderConfig, layer: int) -> list[Site]:
    """Sites of one block, in the order of the forward pass."""
    post, reads_norm, shared = config.post_norm, config.reads_norm, config.shared_norm
    stream = "resid_pre" if config.parallel else "ln1.out" if post else "resid_mid"  # which the MLP's half begins with
    first_norm = _norm_sites(config, "ln1", "resid_mid" if post else "resid_pre")
    second_norm = _norm_sites(config, "ln2", "resid_post" if post else stream)
    attention = _attention_sites(config, layer, "ln1.out" if reads_norm else "resid_pre")
    mlp = _mlp_sites(config, "ln1.out" if shared else "ln2.out" if reads_norm else stream)
    mid = [Site("resid_mid", "B T D", ("resid_pre", "attn_out"), "resid_pre + attn_out")]
    terms = (stream, "attn_out", "mlp_out") if config.parallel else (stream, "mlp_out")
    end = [Site("resid_post", "B T D", terms, " + ".join(terms))]
    if post:
        return [_entry(config, layer), *attention, *mid, *first_norm, *mlp, *end, *second_norm]
    first_norm, second_norm = first_norm if reads_norm else [], second_norm if reads_norm and not shared else []
    mid = [] if config.parallel else mid
    return [_entry(config, layer), *first_norm, *attention, *mid, *second_norm, *mlp, *end]


def final_sites(config: DecoderConfig) -> list[Site]:
    """Sites after the last block."""
    last = block_exit(config, config.n_layers - 1)
    read = "ln_final.out" if config.final_norm else last
    out, bias = " @ W_out.T" if config.projected else "", " + b_U" if config.head_bias else ""
    formula = f"{'x' if read == last else read}{out} @ W_U.T{bias}"
    formula = f"({formula}) * logit_scale" if config.logit_scale != 1 else formula
    formula = f"softcap({formula}, logit_softcap)" if config.logit_softcap is not None else formula
    logits = Site("logits", "B T V", (read,), formula)
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


def multiplied(config: DecoderConfig, layer: int) -> tuple[str, str]:
    """Full names of the q and k of a block whose products are its scores: normed and rotated where they are."""
    q, k = parents_of(config, f"blocks.{layer}.attn.scores")
    return q, k


def clean_name(name: str) -> str:
    """A site's name with TransformerLens's `hook_` removed."""
    return name.replace("hook_", "")


def _entry(config: DecoderConfig, layer: int) -> Site:
    if layer:
        return Site("resid_pre", "B T D", (block_exit(config, layer - 1),), "x")
    token = "embed_ln.out" if config.embed_norm else "embed.projected" if config.projected else "embed.token"
    parents = (token, "embed.position") if config.learned_positions else (token,)
    return Site("resid_pre", "B T D", parents, " + ".join(parents))


def _norm_sites(config: DecoderConfig, name: str, read: str, out: str = "") -> list[Site]:
    """`x` in these formulas is the first parent. out: the name of what the norm gives, where another than `.out`."""
    scale, normalized = _norm_formulas(config, "x", f"{name}.scale")
    return [
        Site(f"{name}.scale", "B T 1", (read,), scale),
        Site(f"{name}.normalized", "B T D", (read, f"{name}.scale"), normalized),
        Site(out or f"{name}.out", "B T D", (f"{name}.normalized",), f"{name}.normalized{_gain(config)}"),
    ]


def _norm_formulas(config: DecoderConfig, x: str, scale: str) -> tuple[str, str]:
    """Of the divisor, and of x divided."""
    if config.norm == "layer":
        return f"sqrt(variance({x}) + eps)", f"({x} - mean({x})) / {scale}"
    return f"sqrt(mean({x} * {x}) + eps)", f"{x} / {scale}"


def _gain(config: DecoderConfig, w: str = "w", b: str = "b") -> str:
    gain = f" * (1 + {w})" if config.gain_plus_one else f" * {w}" if config.norm_gain else ""
    return gain + (f" + {b}" if config.norm_bias and b else "")


def _attention_sites(config: DecoderConfig, layer: int, read: str) -> list[Site]:
    def projection(letter: str, axis: str) -> Site:
        bias = f" + b_{letter}" if config.qkv_bias else ""
        formula = f"heads(x @ W_{letter}.T{bias})"
        formula = formula if config.qkv_clip is None else f"clip({formula}, qkv_clip)"
        return Site(f"attn.{letter.lower()}", f"B T {axis} K", (read,), formula)

    sites = [projection("Q", "H"), projection("K", "G"), projection("V", "G")]
    q, k = "attn.q", "attn.k"
    if config.qk_norm is not None:
        sites += [*_head_norm_sites(config, "attn.q_norm", q, "H"), *_head_norm_sites(config, "attn.k_norm", k, "G")]
        q, k = "attn.q_norm.out", "attn.k_norm.out"
    if config.rope_of(layer) is not None:
        sites.append(Site("attn.rot_q", "B T H K", (q, "positions"), f"rotate({q}, positions)"))
        sites.append(Site("attn.rot_k", "B T G K", (k, "positions"), f"rotate({k}, positions)"))
        q, k = "attn.rot_q", "attn.rot_k"
    bias = " + b_O" if config.out_bias else ""
    out = Site("attn_out", "B T D", ("attn.z",), f"concat_heads(attn.z) @ W_O.T{bias}")
    return [
        *sites,
        Site("attn.scores", "B H T S", (q, k, "mask"), _scores(config, q, k)),
        Site("attn.pattern", "B H T S", ("attn.scores",), f"softmax(attn.scores{', sinks' * config.attn_sinks})"),
        Site("attn.z", "B T H K", ("attn.pattern", "attn.v"), "mix(attn.pattern, shared(attn.v))"),
        *_added(config, "attn", "ln1_post", out),
    ]


def _head_norm_sites(config: DecoderConfig, name: str, read: str, axis: str) -> list[Site]:
    """The norm of q or of k: by head, or of all heads together."""
    together, own_gain = config.qk_norm == "all", config.qk_norm != "head"
    scale, normalized = _norm_formulas(config, "concat_heads(x)" if together else "x", f"{name}.scale")
    normalized = f"heads({normalized})" if together else normalized
    gain = _gain(config, "heads(w)" if own_gain else "w", "b" if config.qk_norm_bias else "")
    return [
        Site(f"{name}.scale", "B T 1" if together else f"B T {axis} 1", (read,), scale),
        Site(f"{name}.normalized", f"B T {axis} K", (read, f"{name}.scale"), normalized),
        Site(f"{name}.out", f"B T {axis} K", (f"{name}.normalized",), f"{name}.normalized{gain}"),
    ]


def _scores(config: DecoderConfig, q: str, k: str) -> str:
    scores = f"dot({q}, shared({k}))" + (" * attn_scale" if config.own_scale else " / sqrt(d_head)")
    scores = scores if config.attn_softcap is None else f"softcap({scores}, attn_softcap)"
    return f"hide({scores}{'' if config.alibi is None else ' + alibi(mask)'})"


def _added(config: DecoderConfig, half: str, norm: str, out: Site) -> list[Site]:
    """What half a block adds to the residual stream: `out`, or `out` normed or scaled."""
    if not config.scales_added:
        return [out]
    whole = replace(out, name=f"{half}.out")
    if config.added_norm:
        return [whole, *_norm_sites(config, norm, whole.name, out.name)]
    return [whole, Site(out.name, out.shape, (whole.name,), f"{whole.name} * resid_scale")]


def _mlp_sites(config: DecoderConfig, read: str) -> list[Site]:
    b_up, b_gate, b_down = (" + b_up", " + b_gate", " + b_down") if config.mlp_bias else ("", "", "")
    act = config.activation
    if config.n_experts:
        return _expert_sites(config, read, b_up, b_gate, b_down)
    down = _added(config, "mlp", "ln2_post", Site("mlp_out", "B T D", ("mlp.post",), f"mlp.post @ W_down.T{b_down}"))
    if not config.gated:
        return [
            Site("mlp.pre", "B T F", (read,), f"x @ W_up.T{b_up}"),
            Site("mlp.post", "B T F", ("mlp.pre",), f"{act}(mlp.pre)"),
            *down,
        ]
    return [
        Site("mlp.pre", "B T F", (read,), f"x @ W_gate.T{b_gate}"),
        Site("mlp.pre_linear", "B T F", (read,), f"x @ W_up.T{b_up}"),
        Site("mlp.post", "B T F", ("mlp.pre", "mlp.pre_linear"), _gate(config)),
        *down,
    ]


def _gate(config: DecoderConfig) -> str:
    if config.mlp_limit is None:
        return f"{config.activation}(mlp.pre) * mlp.pre_linear"
    gate, linear = "mlp_alpha * at_most(mlp.pre, mlp_limit)", "clip(mlp.pre_linear, mlp_limit)"
    return f"{config.activation}({gate}) / mlp_alpha * (1 + {linear})"


def _expert_sites(config: DecoderConfig, read: str, b_up: str, b_gate: str, b_down: str) -> list[Site]:
    """Of a mixture of experts; an expert's values are 0 at the tokens that did not choose it."""
    scores = "mlp.router_scores"
    chosen = "largest(softmax(mlp.router_logits), experts_per_token)"
    out = Site("mlp_out", "B T D", ("mlp.post", scores), f"weighed({scores}, mlp.post @ W_down.T{b_down})")
    return [
        Site("mlp.router_logits", "B T X", (read,), f"x @ W_router.T{' + b_router' if config.router_bias else ''}"),
        Site(scores, "B T X", ("mlp.router_logits",), f"share({chosen})" if config.normalized_scores else chosen),
        Site("mlp.pre", "B T X F", (read, scores), f"where_chosen({scores}, x @ W_gate.T{b_gate})"),
        Site("mlp.pre_linear", "B T X F", (read, scores), f"where_chosen({scores}, x @ W_up.T{b_up})"),
        Site("mlp.post", "B T X F", ("mlp.pre", "mlp.pre_linear"), _gate(config)),
        *_added(config, "mlp", "ln2_post", out),
    ]
