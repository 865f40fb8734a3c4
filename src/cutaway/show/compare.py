"""The comparison of full precision with 8 bits drawn for a terminal of 80 columns, from its data and nothing else.

It does not know the models: the same data that --json prints is all it sees.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from cutaway.model.architecture import size
from cutaway.show.codes import draw_codes
from cutaway.show.tour.draw import bar, fit

OUTLIERS = 12  # layers with outliers that are listed
BAR = 14


def draw_comparison(data: dict[str, Any]) -> RenderableType:
    """All of it, no line wider than 80 columns."""
    parts = {
        "Where they part": _sites(data),
        f"Outliers: |x| ≥ {data['outliers']['threshold']:g} at a layer's input": _outliers(data["outliers"]),
        f"Inside {data['layer']['name']}": _layer(data["layer"]),
        "The next token": _next(data["next"], data["mode"]),
        "Bytes of the weights": _bytes(data["bytes"], data["mode"]),
    }
    named = Text(f"{data['model']}: full precision ({data['dtype']}) against {data['mode']}", style="bold")
    return Group(named, *(Group(Text(), _rule(title), *lines) for title, lines in parts.items()))


def _rule(title: str) -> RenderableType:
    return Rule(Text(f" {title} ", "bold"), align="left", style="dim")


def _sites(data: dict[str, Any]) -> Iterable[Text]:
    exits = [data["sites"][row["exit"]]["relative_error"] for row in data["blocks"]]
    largest = max(filter(math.isfinite, exits), default=0.0) or 1.0
    name = data["blocks"][0]["exit"].split(".", 2)[2]
    yield Text(f"{'':>6}" + "".join(f"{title:^20}" for title in (f"block's exit: {name}", "attn_out", "mlp_out")))
    yield Text(f"{'block':>6}" + f"{'error':>10}{'cosine':>10}" * 3, style="dim")
    for row, error in zip(data["blocks"], exits, strict=True):
        cells = "".join(_cell(data["sites"][row[part]]) for part in ("exit", "attn_out", "mlp_out"))
        yield Text.assemble(
            f"{row['block']:>6}{cells} ", (bar(error / largest if math.isfinite(error) else 1.0, BAR - 1), "cyan")
        )
    yield Text(f"{'logits':>6}{_cell(data['sites']['logits'])}", style="bold")
    yield Text("error: |full - int8| / |full| over all real positions; the bar is the exit's", style="dim")


def _cell(difference: dict[str, float]) -> str:
    error, cosine = difference["relative_error"] * 100, difference["cosine"]
    shown = f"{error:.3f} %" if error < 1000 else f"{error:.1g} %"
    return f"{shown:>10}" + (f"{cosine:>10.6f}" if math.isfinite(cosine) else f"{'—':>10}")


def _outliers(data: dict[str, Any]) -> Iterable[Text]:
    layers = data["layers"]
    if not layers:
        yield Text(f"none in any of the {data['of']} layers: every product is one of codes")
    for layer in layers[:OUTLIERS]:
        count = len(layer["columns"])
        columns = f"{count} column{'s' if count > 1 else ''} ({_some(layer['columns'])})"
        yield Text(f"{layer['layer']:<21} {columns:<37} {layer['tokens']} of {layer['of']} tokens")
    if len(layers) > OUTLIERS:
        yield Text(f"… and {len(layers) - OUTLIERS} more of {data['of']} layers", style="dim")


def _some(columns: Sequence[int]) -> str:
    return ", ".join(map(str, columns[:3])) + (", …" if len(columns) > 3 else "")


def _layer(data: dict[str, Any]) -> Iterable[Text]:
    yield Text(f"reads {data['site']}; a value is its code · scale / 127", style="dim")
    yield from draw_codes(data["output"], fit(data["at"], 14).strip())
    error, share = data["error"] * 100, data["outlier_share"] * 100
    yield Text(f"the whole result there: error {error:.3f} %, the outliers' share {share:.2f} %")
    yield Text(f"the codes save {size(data['bytes_saved']['float32'])} against float32")


def _next(data: dict[str, Any], mode: str) -> Iterable[Text]:
    worst = max(max(text) for text in data["kl"])
    yield Text(f"KL(full ‖ {mode}): {data['mean_kl']:.6f} nats on average, {worst:.6f} at most")
    count = sum(map(len, data["agree"]))
    yield Text(f"the likeliest token is the same at {data['top1_agreement'] * 100:.1f} % of {count} positions")
    for text in data["last"]:
        yield Text(f"{fit('after ' + text['at'], 24)}{'full precision':<28}{mode}", style="dim")
        for full, int8 in zip(text["full"], text["int8"], strict=True):
            style = "" if full["id"] == int8["id"] else "yellow"
            yield Text.assemble(" " * 24, (_likely(full), style), (_likely(int8), style))


def _likely(token: dict[str, Any]) -> str:
    return f"{fit(token['text'], 16)}{token['prob'] * 100:>6.2f} %    "


def _bytes(data: dict[str, int], mode: str) -> Iterable[Text]:
    share = 1 - data["int8"] / data["full"]
    yield Text(f"{size(data['full'])} in full precision, {size(data['int8'])} in {mode}: {share * 100:.1f} % less")
