"""The tour's stages drawn for a terminal of at least 80 columns, from their data and nothing else.

It does not know the model: the same data that --json prints is all it sees.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from cutaway.model.architecture import Row, size, tree
from cutaway.show.codes import draw_codes, saved, shared
from cutaway.show.tour.stages import Stage
from cutaway.text.table import draw as draw_table

WIDTH = 80
WIDEST = 15  # words that fit in one picture of attention
ARROWS = "↑↗→↘↓↙←↖"


def draw(stage: Stage) -> RenderableType:
    """A stage as something that rich can print, no line wider than 80 columns."""
    return Group(heading(stage), body(stage), Text())


def heading(stage: Stage) -> RenderableType:
    """The stage's number, title and file on a line, and the sentence that explains it."""
    title = Text.assemble((f" {stage.number} ", "bold reverse"), f" {stage.title} ", style="bold")
    line = Rule(Text.assemble(title, (f"· {stage.file} ", "dim")), align="left", style="dim")
    return Group(line, Text(stage.says, style="italic"), Text())


def body(stage: Stage) -> RenderableType:
    """The stage's numbers, without its heading."""
    return Group(*_BODIES[stage.number](stage.data))


def _tokens(data: dict[str, Any]) -> Iterable[RenderableType]:
    tokens = data["tokens"]
    for number, (pieces, ids, mask, positions) in enumerate(
        zip(tokens["pieces"], tokens["ids"], tokens["mask"], tokens["positions"], strict=True)
    ):
        rows = {
            "piece": [p["visible"] for p in pieces],
            "id": [str(i) for i in ids],
            "mask": [str(m) for m in mask],
            "position": ["" if p < 0 else str(p) for p in positions],
        }
        title = f"text {number + 1} of {len(tokens['ids'])}" if len(tokens["ids"]) > 1 else ""
        for line in draw_table(title, rows, WIDTH).strip("\n").split("\n"):
            yield Text(line, style="bold" if line.startswith("piece") else "")


def _model(data: dict[str, Any]) -> Iterable[RenderableType]:
    yield Text(data["name"], style="bold")
    yield Text(data["facts"], style="dim")
    head, *lines, total = tree([Row(**module) for module in data["modules"]])
    yield Text(head, style="dim")
    yield from map(Text, lines)
    yield Text(total, style="bold")
    int8 = data["int8"]
    if int8["layers"]:
        yield Text(
            f"in 8 bits: {len(int8['layers'])} layers, {size(int8['bytes'])} where float32 takes "
            f"{size(int8['bytes_float32'])}: {saved(int8['bytes_saved'])}{shared(int8)}",
            style="green",
        )


def _embedding(data: dict[str, Any]) -> Iterable[RenderableType]:
    return _vectors(data)


def _vectors(data: dict[str, Any]) -> Iterable[RenderableType]:
    yield Text(f"{data['site']}  {_shape(data['shape'])}", style="dim")
    shown = data["rows"][:WIDEST]
    largest = max(abs(x) for row in shown for x in row["first"]) or 1.0
    count = len(shown[0]["first"])
    yield Text(f"{'piece':<14}{'the first values':<32}{f'the first {count}':<{count + 2}}{'size':>7}", style="dim")
    for row in shown:
        numbers = " ".join(f"{x:>7.3f}" for x in row["first"][:4])
        strip = _strip(row["first"], largest)
        yield Text.assemble((fit(row["piece"], 14), "bold"), f"{numbers}  ", strip, f"{row['size']:>8.2f}")
    if len(data["rows"]) > WIDEST:
        yield Text(f"… and {len(data['rows']) - WIDEST} more", style="dim")
    yield Text.assemble("blue is below zero, red above; ±", f"{largest:.3g} is the strongest", style="dim")


def _positions(data: dict[str, Any]) -> Iterable[RenderableType]:
    if data["kind"] == "learned":
        yield from _vectors(data)
        return
    turns = "".join(f"{_tokens_long(t):>12}" for t in data["tokens_per_turn"])
    pairs = "".join(f"{f'pair {p}':>12}" for p in data["pairs"])
    yield Text(f"{'of ' + str(data['of']) + ' pairs':<20}{pairs}", style="dim")
    yield Text(f"{'one turn takes':<20}{turns}", style="dim")
    for row in data["rows"][:WIDEST]:
        angles = "".join(f"{d:>9.1f}° {_arrow(d)}" for d in row["degrees"])
        yield Text.assemble((fit(row["piece"], 14), "bold"), f"at {row['position']:<3}", angles)
    if len(data["rows"]) > WIDEST:
        yield Text(f"… and {len(data['rows']) - WIDEST} more", style="dim")


def _attention(data: dict[str, Any]) -> Iterable[RenderableType]:
    yield Text(f"at the last word, {data['at']}", style="dim")
    for name, vector in data["vectors"].items():
        first = vector["first"]
        largest = max(map(abs, first)) or 1.0
        numbers = " ".join(f"{x:>7.3f}" for x in first[:4])
        shape = _shape(vector["shape"])
        head = f"{name}  {shape:<16} head {vector['head']}"
        yield Text.assemble(f"{fit(head, 29)}{numbers}  ", _strip(first[:17], largest))
    if data["codes"] is not None:
        yield Text()
        yield Text(f"the first number of q from {data['codes']['layer']}, in 8 bits:", style="dim")
        yield from draw_codes(data["codes"], fit(data["at"], 14).strip())
    yield Text()
    yield from _pattern(data["pieces"], data["pattern"])
    sizes = data["sizes"]
    yield Text()
    yield Text(
        f"at {data['at']} the stream has size {sizes['resid_pre']:.2f}; all heads together add "
        f"{sizes['attn_out']:.2f}, the MLP {sizes['mlp_out']:.2f}"
    )


def _pattern(pieces: Sequence[str], pattern: Sequence[Sequence[float]]) -> Iterable[Text]:
    """Rows look at columns; the last words where there are too many."""
    start = max(0, len(pieces) - WIDEST)
    columns = range(start, len(pieces))
    if start:
        yield Text(f"the last {WIDEST} of {len(pieces)} words; what a row lacks to 100 % lies before them", style="dim")
    width = min(9, (WIDTH - 16) // len(columns))  # of a column, with the space behind it
    labels = Text(" " * 16, "dim")
    for column in columns:
        labels.append(fit(pieces[column].lstrip("␣") or "␣", width, right=True))
    yield labels
    for row in columns:
        line = Text(fit(pieces[row], 15) + " ", "bold")
        for column in range(start, row + 1):
            share = pattern[row][column]
            line.append(f"{share * 100:>{width - 1}.0f}", _heat(share))
            line.append(" ")
        yield line


def _stream(data: dict[str, Any]) -> Iterable[RenderableType]:
    largest = max(row["size"] for row in data["rows"])
    yield Text(f"at the last word, {data['at']}", style="dim")
    yield Text(f"{'after':<12}{'size':>8}  {'':<16}  what it would say next", style="dim")
    for row in data["rows"]:
        name = "embedding" if row["site"].endswith("resid_pre") else "block " + row["site"].split(".")[1]
        filled = bar(row["size"] / largest, 16)
        first = row["top"][0]
        others = [f"{fit(top['text'], 10).rstrip()} {top['prob'] * 100:.0f} %" for top in row["top"][1:]]
        rest = ", ".join(others)
        style = "bold green" if first["id"] == data["rows"][-1]["top"][0]["id"] else ""
        word = Text(fit(first["text"], 14), style)
        share = f"{first['prob'] * 100:>4.0f} %  "
        line = Text.assemble(f"{name:<12}{row['size']:>8.1f}  ", (filled, "cyan"), "  ", word, share)
        whole = line.cell_len + cell_len(rest) <= WIDTH  # no share is cut in two
        yield line.append(rest if whole else f"{others[0]}, …", "dim")


def _logits(data: dict[str, Any]) -> Iterable[RenderableType]:
    filters = [name for name in data["filters"] if name != "logits"]
    yield Text(" → ".join(["the model's logits", *filters, "the draw"]), style="dim")
    yield Text(f"{'':2}{'piece':<16}{'logit':>8}{'model':>10}{'scaled':>10}{'final':>10}", style="dim")
    for top in data["top"]:
        style = "bold green" if top["chosen"] else "dim" if top["removed_by"] else ""
        final = f"out: {top['removed_by']}" if top["removed_by"] else f"{top['prob'] * 100:.2f} %"
        logit = "-inf" if top["logit"] is None else f"{top['logit']:.3f}"
        model, scaled = f"{top['prob_model'] * 100:.2f} %", f"{top['prob_scaled'] * 100:.2f} %"
        mark = "> " if top["chosen"] else "  "
        line = f"{mark}{fit(_quoted(top['text']), 16)}{logit:>8}{model:>10}{scaled:>10}  "
        yield Text.assemble((line, style), (f"{final:>8}  ", style), (bar(top["prob"], 18), "cyan"))


def _draws(data: dict[str, Any]) -> Iterable[RenderableType]:
    yield Text(f"{'step':>4}  {'u':>6}  {'falls in':<18}{'chosen':<16}{'share':>8}   the runners-up", style="dim")
    shown = [step for step in data["steps"] if not step["texts"][0]["was_over"]]
    for step in shown[:8]:
        text = step["texts"][0]
        u = "" if text["u"] is None else f"{text['u']:.4f}"
        falls = "[{:.4f}, {:.4f})".format(*text["interval"]) if u else "the highest"
        chosen = next(top for top in text["top"] if top["chosen"])
        others = ", ".join(_quoted(top["text"]) for top in text["top"] if not top["chosen"] and top["prob"])
        line = Text.assemble(
            f"{step['index']:>4}  {u:>6}  {falls:<18}", (fit(_quoted(text["text"]), 16), "bold green"),
            f"{chosen['prob'] * 100:>6.1f} %   ", (others, "dim"),
        )  # fmt: skip
        line.truncate(WIDTH, overflow="ellipsis")
        yield line
    if len(shown) > 8:
        yield Text(f"… and {len(shown) - 8} more", style="dim")


_BODIES = {
    1: _tokens,
    2: _model,
    3: _embedding,
    4: _positions,
    5: _attention,
    6: _stream,
    7: _logits,
    8: _draws,
}


def fit(text: str, width: int, right: bool = False) -> str:
    """The text in exactly so many columns with a space behind it, cut with an ellipsis; wide characters take two."""
    if cell_len(text) > width - 1:
        text = set_cell_size(text, width - 2).rstrip() + "…"
    return " " * (width - 1 - cell_len(text)) + text + " " if right else set_cell_size(text, width)


def _quoted(text: str | None) -> str:
    return "" if text is None else repr(text)


def _shape(shape: Sequence[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def bar(share: float, width: int) -> str:
    """A bar of eighths of a column."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    return ("█" * (eighths // 8) + (" ▏▎▍▌▋▊▉"[eighths % 8] if eighths % 8 else "")).ljust(width)


def _strip(values: Iterable[float], largest: float) -> Text:
    """A vector as a strip of cells: blue below zero, red above, stronger for larger; without colour, the height."""
    strip = Text()
    for value in values:
        share = min(1.0, abs(value) / largest)
        level = "▁▂▃▄▅▆▇█"[min(7, int(share * 8))]
        strong = int(80 + 175 * share)
        strip.append(level, f"rgb({strong},70,70)" if value >= 0 else f"rgb(70,110,{strong})")
    return strip


def _heat(share: float) -> str:
    """A background that grows warmer with the share of attention, and a foreground that can be read on it."""
    level = share**0.5  # small shares are many, and would all look alike
    red, green, blue = int(20 + 235 * level), int(20 + 150 * level), int(40 + 10 * level)
    return f"{'black' if level > 0.55 else 'white'} on rgb({red},{green},{blue})"


def _arrow(degrees: float) -> str:
    return ARROWS[round(degrees / 45) % 8]


def _tokens_long(turn: float) -> str:
    return f"{turn:,.1f}" if turn < 1000 else f"{turn:,.0f}"
