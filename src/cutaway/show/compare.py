"""Full precision against 8 bits: the comparison as data, and drawn from this data alone in 80 columns.

It does not know how the two models were loaded, nor how a difference is measured.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cutaway.analysis.compare import NextTokens, compare_sites, next_tokens, outlier_layers
from cutaway.ground.sites import block_exit
from cutaway.lm import LM
from cutaway.model import architecture
from cutaway.model.architecture import size
from cutaway.quant.explain import explain, int8_layers, layer_input, layer_input_sites
from cutaway.quant.formats import GROUP, THRESHOLD
from cutaway.show.codes import draw_codes, grouped, one_output
from cutaway.show.effect import named, pieces_of
from cutaway.show.layout import Line, bar, dim, dtype_name, fit, paragraph, rule
from cutaway.text.pieces import Tokens
from cutaway.trace.trace import Trace
from cutaway.weights.save import source_bytes

OUTLIERS = 12  # layers with outliers that are listed
BAR = 14


@dataclass(frozen=True)
class FullRun:
    """What remains of the full-precision model when it is freed: its values, one weight, and its size."""

    trace: Trace
    weight: Tensor
    bytes: int
    dtype: str

    @classmethod
    def of(cls, lm: LM, tokens: Tokens, layer: str, sites: Sequence[str]) -> "FullRun":
        """layer: the one whose weight is stored, such as "blocks.0.attn.qkv"."""
        weight: Any = lm.decoder.get_submodule(layer).weight
        size, dtype = architecture.nbytes(lm.decoder), dtype_name(weight)
        return cls(lm.trace(tokens, sites), weight.detach(), size, dtype)


def comparison(lm: LM, full: FullRun, layer: str) -> dict[str, Any]:
    """The model in 8 bits, on the same tokens and sites, against the full run: every number that is drawn, and more.

    layer: the one whose codes are shown.
    """
    small = lm.trace(full.trace.tokens, list(full.trace))
    layers = int8_layers(lm.decoder)
    blocks = [
        {"block": block, "exit": block_exit(lm.config, block)}
        | {part: f"blocks.{block}.{part}" for part in ("attn_out", "mlp_out")}
        for block in range(lm.config.n_layers)
    ]
    return {
        "model": lm.name, "dtype": full.dtype, "mode": layers[layer].mode, "tokens": small.tokens.as_data(),
        "blocks": blocks, "sites": {site: vars(error) for site, error in compare_sites(full.trace, small).items()},
        "outliers": {
            "threshold": THRESHOLD, "of": len(layers), "layers": [vars(o) for o in outlier_layers(small, lm.decoder)],
        },
        "layer": _inside(lm, full, small, layer),
        "next": _next_tokens(lm, next_tokens(full.trace, small), small),
        "bytes": {
            "full": full.bytes, "int8": architecture.nbytes(lm.decoder), "checkpoint": source_bytes(lm.checkpoint),
        },
    }  # fmt: skip


def _inside(lm: LM, full: FullRun, small: Trace, name: str) -> dict[str, Any]:
    """One layer's codes and error at the last token of the first text."""
    site = layer_input_sites(lm.config)[name]
    x = layer_input(lm.decoder, name, small[site])
    at = (0, int(small.tokens.last[0]))
    here = explain(int8_layers(lm.decoder)[name], x, full.weight)
    error = here.error
    assert error is not None, "the original weight was given"
    return {
        "name": name, "site": site, "at": pieces_of(small.tokens, 0)[-1], "output": one_output(here, at, 0),
        "outlier_columns": here.outlier_columns.tolist(), "outlier_share": float(here.outlier_share[at]),
        "error": float(error[at]), "bytes": here.bytes, "bytes_saved": here.bytes_saved,
    }  # fmt: skip


def _next_tokens(lm: LM, effect: NextTokens, small: Trace) -> dict[str, Any]:
    last = [
        {"at": pieces_of(small.tokens, row)[-1], "full": named(lm, full), "int8": named(lm, int8)}
        for row, (full, int8) in enumerate(zip(effect.full, effect.int8, strict=True))
    ]
    agreement = {"mean_kl": effect.mean_kl, "top1_agreement": effect.top1_agreement}
    return {"kl": effect.kl, "agree": effect.agree, "last": last} | agreement


def draw_comparison(data: dict[str, Any]) -> Iterator[Line]:
    """All of it, no line wider than 80 columns."""
    full, int8, checkpoint = (data["bytes"][name] for name in ("full", "int8", "checkpoint"))
    less = f"{size(int8)} in {data['mode']}; in {data['dtype']} {size(full)}: {architecture.more(int8, full)}"
    beside = f"the checkpoint's files {size(checkpoint)}: {architecture.more(int8, checkpoint)}"
    parts = {
        "Differences by site": _sites(data),
        f"LLM.int8()'s outliers: |x| ≥ {data['outliers']['threshold']:g} at an input": _outliers(data["outliers"]),
        f"Inside {data['layer']['name']}": _layer(data["layer"]),
        "The next token": _next(data["next"], data["mode"]),
        "Bytes of the weights": [[less], [beside]],
    }
    yield from paragraph(f"{data['model']}: full precision ({data['dtype']}) against {data['mode']}", "bold")
    for title, lines in parts.items():
        yield from ([], rule((f" {title} ", "bold")), *lines)


def _sites(data: dict[str, Any]) -> Iterator[Line]:
    exits = [data["sites"][row["exit"]]["relative_error"] for row in data["blocks"]]
    largest = max(filter(math.isfinite, exits), default=0.0) or 1.0
    name = data["blocks"][0]["exit"].split(".", 2)[2]
    yield [f"{'':>6}" + "".join(f"{title:^20}" for title in (f"block's exit: {name}", "attn_out", "mlp_out"))]
    yield dim(f"{'block':>6}" + f"{'error':>10}{'cosine':>10}" * 3)
    for row, error in zip(data["blocks"], exits, strict=True):
        cells = "".join(_cell(data["sites"][row[part]]) for part in ("exit", "attn_out", "mlp_out"))
        share = error / largest if math.isfinite(error) else 1.0
        yield [f"{row['block']:>6}{cells} ", (bar(share, BAR - 1), "cyan")]
    yield [(f"{'logits':>6}{_cell(data['sites']['logits'])}", "bold")]
    yield dim("error: |full - int8| / |full| over all real positions; the bar is the exit's")


def _cell(difference: dict[str, float]) -> str:
    error, cosine = difference["relative_error"] * 100, difference["cosine"]
    shown = f"{error:.3f} %" if error < 1000 else f"{error:.1g} %"
    return f"{shown:>10}" + (f"{cosine:>10.6f}" if math.isfinite(cosine) else f"{'—':>10}")


def _outliers(data: dict[str, Any]) -> Iterator[Line]:
    layers = data["layers"]
    if not layers:
        yield [f"none in any of the {data['of']} layers: every product is one of codes"]
    for layer in layers[:OUTLIERS]:
        count = len(layer["columns"])
        columns = f"{count} column{'s' if count > 1 else ''} ({_some(layer['columns'])})"
        yield [f"{layer['layer']:<21} {columns:<37} {layer['tokens']} of {layer['of']} tokens"]
    if len(layers) > OUTLIERS:
        yield dim(f"… and {len(layers) - OUTLIERS} more of {data['of']} layers")


def _some(columns: Sequence[int]) -> str:
    return ", ".join(map(str, columns[:3])) + (", …" if len(columns) > 3 else "")


def _layer(data: dict[str, Any]) -> Iterator[Line]:
    how = f"scale, of each {GROUP} columns" if grouped(data["output"]) else "scale / 127"
    yield dim(f"reads {data['site']}; a value is its code · {how}")
    yield from draw_codes(data["output"], fit(data["at"], 14).strip())
    error, share = data["error"] * 100, data["outlier_share"] * 100
    apart = "" if grouped(data["output"]) else f", the outliers' share {share:.2f} %"
    yield [f"the full result there: error {error:.3f} %{apart}"]
    others = (f"{size(data['bytes'] + data['bytes_saved'][dtype])} in {dtype}" for dtype in ("float32", "float16"))
    yield [f"the weight takes {size(data['bytes'])}; {', '.join(others)}"]


def _next(data: dict[str, Any], mode: str) -> Iterator[Line]:
    worst = max(max(text) for text in data["kl"])
    yield [f"KL(full ‖ {mode}): {data['mean_kl']:.6f} nats on average, {worst:.6f} at most"]
    count = sum(map(len, data["agree"]))
    yield [f"the likeliest token is the same at {data['top1_agreement'] * 100:.1f} % of {count} positions"]
    for text in data["last"]:
        yield dim(f"{fit('after ' + text['at'], 24)}{'full precision':<28}{mode}")
        for full, int8 in zip(text["full"], text["int8"], strict=True):
            style = "" if full["id"] == int8["id"] else "yellow"
            yield [" " * 24, (_likely(full), style), (_likely(int8), style)]


def _likely(token: dict[str, Any]) -> str:
    return f"{fit(token['text'], 16)}{token['prob'] * 100:>6.2f} %    "
