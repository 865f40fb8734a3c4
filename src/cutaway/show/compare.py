"""Full precision against 8 bits: the comparison as data, and drawn from this data alone in 80 columns.

It does not know how the two models were loaded, nor how a difference is measured.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cutaway.analysis.precisions import Precisions
from cutaway.ground.sites import block_exit
from cutaway.model.architecture import size
from cutaway.quant.formats import GROUP, THRESHOLD
from cutaway.show.codes import draw_codes, grouped, one_output
from cutaway.show.effect import named
from cutaway.show.finding import Finding
from cutaway.show.layout import Line, bar, dim, fit, paragraph, plain, rule
from cutaway.show.pictures import Heatmap, Picture

OUTLIERS = 12  # layers with outliers that are listed
BAR = 14


@dataclass(frozen=True, eq=False, repr=False)
class CompareFinding(Finding):
    """Full precision against 8 bits. data: every number that is drawn, and more; it is what `to_dict` gives."""

    data: dict[str, Any]

    @property
    def axes(self) -> Mapping[str, list[str]]:
        """The compared sites, in the order of the pass."""
        return {"site": list(self.data["sites"])}

    def to_dict(self) -> dict[str, Any]:
        return self.data

    def records(self) -> list[dict[str, Any]]:
        return [{"site": site} | error for site, error in self.data["sites"].items()]

    def coloured(self) -> Iterator[Line]:
        """The table with its colours."""
        return draw_comparison(self.data)

    def __str__(self) -> str:
        return plain(self.coloured())

    def pictures(self) -> list[Picture]:
        blocks, parts = self.data["blocks"], ("exit", "attn_out", "mlp_out")
        errors = [[self.data["sites"][row[part]]["relative_error"] for part in parts] for row in blocks]
        values = torch.tensor(errors, dtype=torch.float32, device="cpu")
        title = f"relative error of {self.data['mode']} against {self.data['dtype']}"
        return [Heatmap(title, values, [str(row["block"]) for row in blocks], list(parts), "block", "site",
                        "|full - int8| / |full|")]  # fmt: skip


def compare_finding(model: str, both: Precisions, checkpoint_bytes: int, word: Callable[[int], str]) -> CompareFinding:
    """checkpoint_bytes: of the model's files. word: the text of an id."""
    config = both.config
    blocks = [
        {"block": block, "exit": block_exit(config, block)}
        | {part: f"blocks.{block}.{part}" for part in ("attn_out", "mlp_out")}
        for block in range(config.n_layers)
    ]
    full, int8 = both.bytes
    return CompareFinding({
        "model": model, "dtype": both.dtype, "mode": both.mode, "tokens": both.tokens.as_data(),
        "blocks": blocks, "sites": {site: vars(error) for site, error in both.sites.items()},
        "outliers": {"threshold": THRESHOLD, "of": both.layers, "layers": [vars(o) for o in both.outliers]},
        "layer": _inside(both, word), "next": _next_tokens(both, word),
        "bytes": {"full": full, "int8": int8, "checkpoint": checkpoint_bytes},
    }, model=model)  # fmt: skip


def _inside(both: Precisions, word: Callable[[int], str]) -> dict[str, Any]:
    """One layer's codes and error at the last token of the first text."""
    at, here = (0, int(both.tokens.last[0])), both.explained
    error = here.error
    assert error is not None, "the original weight was given"
    return {
        "name": both.layer, "site": both.site, "at": _last(both, 0, word), "output": one_output(here, at, 0),
        "outlier_columns": here.outlier_columns.tolist(), "outlier_share": float(here.outlier_share[at]),
        "error": float(error[at]), "bytes": here.bytes, "bytes_saved": here.bytes_saved,
    }  # fmt: skip


def _last(both: Precisions, row: int, word: Callable[[int], str]) -> str:
    """The last token of a text, as it is shown."""
    return word(int(both.tokens.ids[row, both.tokens.last[row]]))


def _next_tokens(both: Precisions, word: Callable[[int], str]) -> dict[str, Any]:
    last = [
        {"at": _last(both, row, word), "full": named(full, word), "int8": named(int8, word)}
        for row, (full, int8) in enumerate(zip(both.next.full, both.next.int8, strict=True))
    ]
    agreement = {"mean_kl": both.next.mean_kl, "top1_agreement": both.next.top1_agreement}
    return {"kl": both.next.kl, "agree": both.next.agree, "last": last} | agreement


def draw_comparison(data: dict[str, Any]) -> Iterator[Line]:
    """All of it, no line wider than 80 columns."""
    full, int8, checkpoint = (data["bytes"][name] for name in ("full", "int8", "checkpoint"))
    less = f"{size(full)} in full precision, {size(int8)} in {data['mode']}: {(1 - int8 / full) * 100:.1f} % less"
    beside = f"the checkpoint's files: {size(checkpoint)}"
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
    yield [f"the weight takes {size(data['bytes'])}, {size(data['bytes_saved']['float32'])} less than in float32"]


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
