"""The tour's stages drawn in 80 columns, from their data and nothing else.

It does not know the model: its input is the data that --json prints.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cutaway.model.architecture import Row, tree
from cutaway.show.codes import draw_codes, saving_line
from cutaway.show.layout import WIDTH, Line, Part, bar, dim, fit, paragraph, plain, rule
from cutaway.text.table import columns_of, cut, visible
from cutaway.text.table import draw as draw_table
from cutaway.tour.stages import Stage

WIDEST = 15  # tokens that fit in one attention map
ARROWS = "↑↗→↘↓↙←↖"


def draw(stage: Stage) -> list[Line]:
    """A stage, no line wider than 80 columns."""
    return [*heading(stage), *body(stage), []]


def heading(stage: Stage) -> list[Line]:
    """The stage's number, title and file on a line, and the sentence that explains it."""
    title = rule((f" {stage.number} ", "bold reverse"), (f" {stage.title} ", "bold"), (f"· {stage.file} ", "dim"))
    return [title, *paragraph(stage.says, "italic"), []]


def body(stage: Stage) -> Iterable[Line]:
    """The stage's numbers, without its heading."""
    return _BODIES[stage.number](stage.data)


def _tokens(data: dict[str, Any]) -> Iterator[Line]:
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
        if number:
            yield []
        title = f"text {number + 1} of {len(tokens['ids'])}" if len(tokens["ids"]) > 1 else ""
        for line in draw_table(title, rows, WIDTH).strip("\n").split("\n"):
            yield [(line, "bold" if line.startswith("piece") else "")]


def _model(data: dict[str, Any]) -> Iterator[Line]:
    yield from paragraph(data["name"], "bold")
    yield from paragraph(data["facts"], "dim")
    head, *lines, total = tree([Row(**module) for module in data["modules"]])
    yield dim(head)
    yield from ([line] for line in lines)
    yield [(total, "bold")]
    if data["int8"]["layers"]:
        yield [(f"in 8 bits: {len(data['int8']['layers'])} layers, {saving_line(data['int8'])}", "green")]


def _vectors(data: dict[str, Any]) -> Iterator[Line]:
    yield dim(f"{data['site']}  {data['shape']}")
    shown = data["rows"][:WIDEST]
    largest = max(abs(x) for row in shown for x in row["first"]) or 1.0
    count = len(shown[0]["first"])
    yield dim(f"{'piece':<14}{'the first values':<32}{f'the first {count}':<{count + 2}}{'size':>7}")
    for row in shown:
        numbers = " ".join(f"{x:>7.3f}" for x in row["first"][:4])
        strip = _strip(row["first"], largest)
        yield [
            (fit(row["piece"], 14), "dim" if row["padding"] else "bold"),
            f"{numbers}  ",
            *strip,
            f"{row['size']:>8.2f}",
        ]
    if len(data["rows"]) > WIDEST:
        yield dim(f"… and {len(data['rows']) - WIDEST} more")
    yield dim(f"blue is below zero, red above; ±{largest:.3g} is the strongest")


def _positions(data: dict[str, Any]) -> Iterator[Line]:
    if data["kind"] == "learned":
        yield from _vectors(data)
        return
    periods = "".join(f"{t:>12,.1f}" if t < 1000 else f"{t:>12,.0f}" for t in data["tokens_per_turn"])
    pairs = "".join(f"{f'pair {p}':>12}" for p in data["pairs"])
    yield dim(f"{'of ' + str(data['of']) + ' pairs':<20}{pairs}")
    yield dim(f"{'tokens for 360°':<20}{periods}")
    for row in data["rows"][:WIDEST]:
        if row["position"] is None:
            yield [(fit(row["piece"], 14), "dim"), ("padding: no position, and no other token attends to it", "dim")]
            continue
        angles = "".join(f"{d:>9.1f}° {ARROWS[round(d / 45) % 8]}" for d in row["degrees"])
        yield [(fit(row["piece"], 14), "bold"), f"at {row['position']:<3}{angles}"]
    if len(data["rows"]) > WIDEST:
        yield dim(f"… and {len(data['rows']) - WIDEST} more")


def _attention(data: dict[str, Any]) -> Iterator[Line]:
    yield from paragraph(f"at the last token, {data['at']}", "dim")
    for name, vector in data["vectors"].items():
        first = vector["first"]
        largest = max(map(abs, first)) or 1.0
        numbers = " ".join(f"{x:>7.3f}" for x in first[:4])
        head = f"{name}  {vector['shape']!s:<16} head {vector['head']}"
        yield [f"{fit(head, 29)}{numbers}  ", *_strip(first[:17], largest)]
    if data["codes"] is not None:
        yield []
        yield dim(f"the first number of q from {data['codes']['layer']}, in 8 bits:")
        yield from draw_codes(data["codes"], fit(data["at"], 14).strip())
    yield []
    yield from _pattern(data["pieces"], data["pattern"])
    sizes = data["sizes"]
    yield []
    yield from paragraph(
        f"at {data['at']} the stream has size {sizes['resid_pre']:.2f}; all heads add "
        f"{sizes['attn_out']:.2f}, the MLP {sizes['mlp_out']:.2f}"
    )


def _pattern(pieces: Sequence[str], pattern: Sequence[Sequence[float]]) -> Iterator[Line]:
    """Rows attend to columns; the last tokens where there are too many."""
    start = max(0, len(pieces) - WIDEST)
    columns = range(start, len(pieces))
    if start:
        yield dim(f"the last {WIDEST} of {len(pieces)} tokens; the rest of each row's 100 % is on earlier ones")
    width = min(9, (WIDTH - 16) // len(columns))  # of a column, with the space after it
    yield dim(" " * 16 + "".join(fit(pieces[column].lstrip("␣") or "␣", width, right=True) for column in columns))
    for row in columns:
        shares = pattern[row][start : row + 1]
        cells = (part for x in shares for part in ((f"{x * 100:>{width - 1}.0f}", "bold " + _heat(x)), " "))
        yield [(fit(pieces[row], 15) + " ", "bold"), *cells]


def _stream(data: dict[str, Any]) -> Iterator[Line]:
    largest = max(row["size"] for row in data["rows"])
    yield from paragraph(f"at the last token, {data['at']}", "dim")
    yield dim(f"{'after':<12}{'size':>8}  {'':<16}  the most probable next tokens")
    for row in data["rows"]:
        name = "embedding" if row["site"].endswith("resid_pre") else "block " + row["site"].split(".")[1]
        filled = bar(row["size"] / largest, 16)
        first = row["top"][0]
        others = [f"{fit(top['text'], 10).rstrip()} {top['prob'] * 100:.0f} %" for top in row["top"][1:]]
        rest = "  ".join(others)  # a token may be a comma, and none holds a space
        style = "bold green" if first["id"] == data["rows"][-1]["top"][0]["id"] else ""
        start = [f"{name:<12}{row['size']:>8.1f}  ", (filled, "cyan"), "  ", (fit(first["text"], 14), style)]
        start = [*start, f"{first['prob'] * 100:>4.0f} %  "]
        fits = columns_of(plain([start]) + rest) <= WIDTH  # no share is cut in two
        yield [*start, (rest if fits else f"{others[0]}  …", "dim")]


def _logits(data: dict[str, Any]) -> Iterator[Line]:
    filters = [name for name in data["filters"] if name != "logits"]
    yield dim(" → ".join(["the model's logits", *filters, "the draw"]))
    yield dim(f"{'':2}{'piece':<16}{'logit':>8}{'model':>10}{'scaled':>10}{'final':>10}")
    for top in data["top"]:
        style = "bold green" if top["chosen"] else "dim" if top["removed_by"] else ""
        final = f"out: {top['removed_by']}" if top["removed_by"] else f"{top['prob'] * 100:.2f} %"
        logit = "-inf" if top["logit"] is None else f"{top['logit']:.3f}"
        model, scaled = f"{top['prob_model'] * 100:.2f} %", f"{top['prob_scaled'] * 100:.2f} %"
        mark = "> " if top["chosen"] else "  "
        line = f"{mark}{fit(_shown(top['text']), 16)}{logit:>8}{model:>10}{scaled:>10}  "
        yield [(f"{line}{final:>8}  ", style), (bar(top["prob"], 18), "cyan")]


def _draws(data: dict[str, Any]) -> Iterator[Line]:
    yield dim(f"{'step':>4}  {'u':>6}  {'falls in':<18}{'chosen':<16}{'share':>8}   the runners-up")
    shown = [step for step in data["steps"] if not step["texts"][0]["was_over"]]
    for step in shown[:8]:
        text = step["texts"][0]
        u = "" if text["u"] is None else f"{text['u']:.4f}"
        falls = "[{:.4f}, {:.4f})".format(*text["interval"]) if u else "the highest"
        chosen = next(top for top in text["top"] if top["chosen"])
        others = "  ".join(_shown(top["text"]) for top in text["top"] if not top["chosen"] and top["prob"])
        line = [f"{step['index']:>4}  {u:>6}  {falls:<18}", (fit(_shown(text["text"]), 16), "bold green")]
        line = [*line, f"{chosen['prob'] * 100:>6.1f} %   "]
        yield [*line, (cut(others, WIDTH - columns_of(plain([line]))), "dim")]
    if len(shown) > 8:
        yield dim(f"… and {len(shown) - 8} more")


_BODIES = dict(enumerate((_tokens, _model, _vectors, _positions, _attention, _stream, _logits, _draws), 1))


def _shown(text: str | None) -> str:
    return "" if text is None else visible(text)


def _strip(values: Iterable[float], largest: float) -> Iterator[Part]:
    """A vector as a strip of cells: blue below zero, red above, stronger for larger; without colour, the height."""
    for value in values:
        share = min(1.0, abs(value) / largest)
        strong = int(80 + 175 * share)
        level = "▁▂▃▄▅▆▇█"[min(7, int(share * 8))]
        yield level, f"rgb({strong},70,70)" if value >= 0 else f"rgb(70,110,{strong})"


def _heat(share: float) -> str:
    """A background that grows warmer with the share of attention, and a foreground that can be read on it."""
    level = share**0.5  # small shares are many, and would all look alike
    red, green, blue = int(20 + 235 * level), int(20 + 150 * level), int(40 + 10 * level)
    return f"{'black' if level > 0.55 else 'white'} on rgb({red},{green},{blue})"
