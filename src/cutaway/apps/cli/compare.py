"""`cutaway compare`: the same text in full precision and in 8 bits, and where the two part.

It runs one model after the other and hands over their numbers; it does not know how they are measured or drawn.
"""

import gc
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cutaway.apps.cli.options import Debug, Device, Dtype, Json, Model, NoSpecial, Offline, Texts
from cutaway.apps.cli.running import MODES, busy, cut, facts_of, find, open_model, print_json, read_texts, require_known
from cutaway.ground.errors import BadArgument

if TYPE_CHECKING:
    from torch import Tensor

    from cutaway.analysis.compare import NextTokens
    from cutaway.ground.config import DecoderConfig
    from cutaway.lm import LM
    from cutaway.text.pieces import Tokens
    from cutaway.trace.trace import Trace

LAYERS = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")
HEAD = "unembed.head"

Quantize = Annotated[str, typer.Option(metavar="HOW", help="int8, int8-pooled or int8-weight.")]
Block = Annotated[int, typer.Option(help="The block whose codes are shown, from 0.")]
Layer = Annotated[str, typer.Option(metavar="NAME", help=f"The layer: {', '.join(LAYERS)}, or {HEAD}.")]
Sites = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN", help='Compare these too, as "*.attn.pattern"; may be repeated.')
]


class FullRun(NamedTuple):
    """What is kept of the full-precision model when it is let go: its values, one weight, and its size."""

    trace: "Trace"
    weight: "Tensor"
    bytes: int
    dtype: str


def compare(
    texts: Texts,
    block: Block = 0,
    layer: Layer = LAYERS[0],
    sites: Sites = None,
    no_special_tokens: NoSpecial = False,
    model: Model = None,
    quantize: Quantize = "int8",
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Hold full precision against 8 bits: values, next token, bytes.

    The two are loaded one after the other, never together.
    """
    require_known(quantize, MODES)
    read = read_texts(texts)
    with busy("starting") as report:
        options = {"dtype": dtype, "device": device, "offline": offline, "report": report}
        config = facts_of(find(model, offline=offline, report=report))
        name, chosen = _layer_name(config, block, layer), _chosen(config, sites)  # told before weights are read
        whole = open_model(model, quantize="none", **options)
        full = _full_run(whole, cut(whole, read, no_special_tokens), name, chosen)
        del whole
        gc.collect()
        lm = open_model(model, quantize=quantize, told=True, **options)
        data = _data(lm, full, lm.trace(full.trace.tokens, chosen), name)
    if as_json:
        print_json(data)
        return
    from rich.console import Console

    from cutaway.show.compare import draw_comparison

    Console(width=80, highlight=False).print(draw_comparison(data))


def _full_run(lm: "LM", tokens: "Tokens", name: str, sites: list[str]) -> FullRun:
    from cutaway.model import architecture

    weight: Any = lm.decoder.get_submodule(name).weight
    kind = str(weight.dtype).removeprefix("torch.")
    return FullRun(lm.trace(tokens, sites), weight.detach(), architecture.nbytes(lm.decoder), kind)


def _layer_name(config: "DecoderConfig", block: int, layer: str) -> str:
    if layer == HEAD:
        return HEAD
    if layer not in LAYERS:
        raise BadArgument(f"--layer {layer}", f"{', '.join(LAYERS)} or {HEAD}", "choose one of these layers")
    if not 0 <= block < config.n_layers:
        raise BadArgument(f"--block {block}", f"0 to {config.n_layers - 1}", "choose a block that this model has")
    return f"blocks.{block}.{layer}"


def _chosen(config: "DecoderConfig", sites: list[str] | None) -> list[str]:
    from cutaway.analysis.compare import compared_sites
    from cutaway.ground.select import select

    return select(config, [*compared_sites(config), *(sites or [])])


def _data(lm: "LM", full: FullRun, small: "Trace", name: str) -> dict[str, Any]:
    """Every number that is shown, and more, as --json prints it."""
    from cutaway.analysis.compare import compare_sites, next_tokens, outlier_layers
    from cutaway.ground.sites import block_exit
    from cutaway.model import architecture
    from cutaway.quant.explain import int8_layers
    from cutaway.quant.int8 import THRESHOLD

    layers = int8_layers(lm.decoder)
    blocks = [
        {"block": block, "exit": block_exit(lm.config, block)}
        | {part: f"blocks.{block}.{part}" for part in ("attn_out", "mlp_out")}
        for block in range(lm.config.n_layers)
    ]
    return {
        "model": lm.name, "dtype": full.dtype, "mode": layers[name].mode, "tokens": small.tokens.as_data(),
        "blocks": blocks, "sites": {site: vars(apart) for site, apart in compare_sites(full.trace, small).items()},
        "outliers": {
            "threshold": THRESHOLD, "of": len(layers), "layers": [vars(o) for o in outlier_layers(small, lm.decoder)],
        },
        "layer": _inside(lm, full, small, name),
        "next": _next(lm, next_tokens(full.trace, small), small),
        "bytes": {"full": full.bytes, "int8": architecture.nbytes(lm.decoder)},
    }  # fmt: skip


def _inside(lm: "LM", full: FullRun, small: "Trace", name: str) -> dict[str, Any]:
    """One layer, looked into at the last token of the first text."""
    from cutaway.quant.explain import explain, int8_layers, layer_input, layer_input_sites
    from cutaway.show.codes import one_output

    site = layer_input_sites(lm.config)[name]
    x = layer_input(lm.decoder, name, small[site])
    at = (0, int(small.tokens.last[0]))
    here = explain(int8_layers(lm.decoder)[name], x, full.weight)
    error = here.error
    assert error is not None, "the original weight was given"
    return {
        "name": name, "site": site, "at": _pieces(small, 0)[-1], "output": one_output(here, at, 0),
        "outlier_columns": here.outlier_columns.tolist(), "outlier_share": float(here.outlier_share[at]),
        "error": float(error[at]), "bytes": here.bytes, "bytes_saved": here.bytes_saved,
    }  # fmt: skip


def _next(lm: "LM", effect: "NextTokens", small: "Trace") -> dict[str, Any]:
    def named(likeliest: tuple[tuple[int, float], ...]) -> list[dict[str, Any]]:
        pieces = lm.tokenizer.pieces(token for token, _ in likeliest)
        return [{"id": i, "text": p.visible, "prob": x} for p, (i, x) in zip(pieces, likeliest, strict=True)]

    last = [
        {"at": _pieces(small, row)[-1], "full": named(full), "int8": named(int8)}
        for row, (full, int8) in enumerate(zip(effect.full, effect.int8, strict=True))
    ]
    agreement = {"mean_kl": effect.mean_kl, "top1_agreement": effect.top1_agreement}
    return {"kl": effect.kl, "agree": effect.agree, "last": last} | agreement


def _pieces(trace: "Trace", row: int) -> list[str]:
    return [piece.visible for piece in (trace.tokens.pieces or ())[row] if not piece.padding]
