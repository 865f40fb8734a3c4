"""`cutaway trace`: the values of one pass, by site.

It shows what a trace holds; it does not know how a value was computed.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutaway.apps.cli.columns import WIDTH, columns
from cutaway.apps.cli.options import Debug, Device, Dtype, Json, Model, NoSpecial, Offline, Quantize
from cutaway.apps.cli.running import busy, cut, facts_of, find, note, open_model, print_json, read_texts
from cutaway.ground.errors import BadArgument, BadText

if TYPE_CHECKING:
    from torch import Tensor

    from cutaway.analysis.effect import Effect
    from cutaway.explain.why import Why as Why_
    from cutaway.ground.config import DecoderConfig
    from cutaway.ground.sites import Site
    from cutaway.lm import LM
    from cutaway.trace.trace import Trace

Texts = Annotated[
    list[str] | None,
    typer.Argument(metavar="TEXT", help='A text, or several; "-" is standard input.', show_default=False),
]
Sites = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN", help='Sites to record, as in "blocks.3-7.attn.*"; may be repeated. All without it.'
    ),
]
Show = Annotated[
    list[str] | None, typer.Option(metavar="SITE", help="Print the values of this site too; may be repeated.")
]
SitesList = Annotated[bool, typer.Option("--sites-list", help="List the names of all sites instead; needs no TEXT.")]


Why = Annotated[
    list[str] | None,
    typer.Option(metavar="ELEMENT", help='Take one number apart, as in "blocks.3.attn.z[0,2,1,5]"; may be repeated.'),
]
EditsFile = Annotated[
    Path | None, typer.Option(metavar="RECIPE", help="Edits to do on the way, a JSON file; their effect is shown.")
]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Show what it would cost in bytes, and run nothing.")]
Budget = Annotated[str | None, typer.Option(metavar="BYTES", help='Refuse to record more than this: "2 GB".')]
Positions = Annotated[
    str | None, typer.Option(metavar="LIST", help='Only these positions of each text: "0,5,-1"; -1 is the last.')
]
Until = Annotated[str | None, typer.Option(metavar="SITE", help="End the pass after this site.")]
To = Annotated[str | None, typer.Option(metavar="PLACE", help="Where values go: cpu, disk, or a folder.")]
Save = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the trace as a .safetensors file.")]


def trace(
    texts: Texts = None,
    sites: Sites = None,
    show: Show = None,
    why: Why = None,
    edits: EditsFile = None,
    plan: PlanOnly = False,
    budget: Budget = None,
    positions: Positions = None,
    until: Until = None,
    to: To = None,
    save: Save = None,
    sites_list: SitesList = False,
    no_special_tokens: NoSpecial = False,
    model: Model = None,
    quantize: Quantize = "int8",
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Record the values of one pass, by site.

    With --show or --why and no --sites, only what they need is recorded.
    """
    if sites_list:
        _list_sites(model, offline, as_json)
        return
    if not texts:
        raise BadText("no TEXT", "one text or several", "pass one, or --sites-list for the names of the sites")
    read = read_texts(texts)
    asked = [element(each) for each in why or []]
    options: dict[str, Any] = {"positions": _numbers(positions), "until": until, "to": _place(to)}
    with busy("starting") as report:
        lm = open_model(model, quantize=quantize, dtype=dtype, device=device, offline=offline, report=report)
        wanted = [*(sites or []), *(show or []), *_needed(lm.config, asked)] or ["*"]
        tokens = cut(lm, read, no_special_tokens)
        cost = lm.plan(tokens, wanted, **options)
        values = None if plan else lm.trace(tokens, wanted, edits=edits or (), budget=budget, **options)
        effect = None if edits is None or plan else lm.effect(tokens, edits)
    if values is None:
        print_json(cost.as_data()) if as_json else print(cost)
        return
    shown, found = _matching(lm.config, show), [lm.why(values, name, *index) for name, index in asked]
    if save is not None:
        values.save(save)
        note(f"wrote {len(values)} values to {save}.")
    if as_json:
        more = {"why": [each.as_data() for each in found], "effect": None if effect is None else effect.as_data()}
        print_json(_data(values, shown) | more)
    else:
        print("\n\n".join(_parts(lm, values, shown, found, effect, bool(sites) or not (show or why))))


def _parts(
    lm: "LM", values: "Trace", shown: list[str], found: "list[Why_]", effect: "Effect | None", whole: bool
) -> list[str]:
    """What is printed, a part each."""
    from cutaway.show.effect import effect_table

    parts = [] if effect is None else [effect_table(effect, lm.token_text)]
    parts += [table(values)] if whole else []
    return [*parts, *(_values(values, name) for name in shown), *map(str, found)]


def element(written: str) -> tuple[str, tuple[int, ...]]:
    """ "blocks.3.attn.z[0,2,1,5]" as a name and an index. Raises BadArgument for anything else."""
    parts = re.fullmatch(r"\s*([^\[\]]+)\[([-\d,\s]+)\]\s*", written)
    numbers = _numbers(parts[2]) if parts else None
    if parts is None or numbers is None:
        raise BadArgument(f"--why {written!r}", "a site and an index on each axis", 'write "blocks.3.attn.z[0,2,1,5]"')
    return parts[1].strip(), tuple(numbers)


def _needed(config: "DecoderConfig", asked: list[tuple[str, tuple[int, ...]]]) -> list[str]:
    """The sites to explain and their parents."""
    from cutaway.ground.sites import parents_of

    names = _matching(config, [name for name, _ in asked])
    return [each for name in names for each in (name, *parents_of(config, name))]


def _numbers(written: str | None) -> list[int] | None:
    if written is None:
        return None
    try:
        return [int(part) for part in written.split(",")]
    except ValueError as error:
        raise BadArgument(repr(written), "whole numbers with commas between", 'write for example "0,5,-1"') from error


def _place(to: str | None) -> "Path | str | None":
    return Path(to) if to is not None and Path(to).is_dir() else to


def _matching(config: "DecoderConfig", patterns: list[str] | None) -> list[str]:
    from cutaway.ground.select import select

    return select(config, patterns) if patterns else []


def _measure(value: "Tensor") -> dict[str, Any]:
    """Shape, dtype, bytes, and mean and largest size of the finite values: masked scores are -inf by design."""
    finite = value[value.isfinite()].float()
    mean, largest = (float(finite.mean()), float(finite.abs().max())) if finite.numel() else (None, None)
    dtype = str(value.dtype).removeprefix("torch.")
    return {"shape": list(value.shape), "dtype": dtype, "bytes": value.nbytes, "mean": mean, "largest": largest}


def table(values: "Trace") -> str:
    measured = {name: _measure(value) for name, value in values.items()}
    rows = [("site", "shape", "bytes", "mean", "largest")]
    for name, m in measured.items():
        mean, largest = ("" if m[key] is None else f"{m[key]:.4g}" for key in ("mean", "largest"))
        rows.append((name, str(m["shape"]), f"{m['bytes']:,}", mean, largest))
    dtypes = ", ".join(dict.fromkeys(m["dtype"] for m in measured.values()))
    count = f"{len(values)} site{'s' * (len(values) != 1)}"
    end = f"{count}, {values.nbytes:,} bytes of {dtypes}; attention: {values.attention}"
    return f"{columns(rows, right=(2, 3, 4))}\n{end}"


def _values(values: "Trace", name: str) -> str:
    """One site: its axes, its formula, and its values, with the middle of long axes left out."""
    import numpy as np

    from cutaway.ground.sites import all_sites

    value, site = values[name], all_sites(values.config)[name]
    numbers = np.array2string(
        value.cpu().float().numpy(), max_line_width=WIDTH, edgeitems=3, threshold=200, precision=4, suppress_small=True
    )
    dtype = str(value.dtype).removeprefix("torch.")
    return f"{name}  {site.shape} = {list(value.shape)}  {dtype}\n  = {_formula(site)}\n{numbers}"


def _data(values: "Trace", shown: list[str]) -> dict[str, Any]:
    sites = {name: _measure(value) for name, value in values.items()}
    for name in shown:
        sites[name]["values"] = values[name].tolist()
    return {"model": values.model, "tokens": values.tokens.as_data(), "attention": values.attention, "sites": sites}


def _list_sites(model: str | None, offline: bool, as_json: bool) -> None:
    with busy("reading the config") as report:
        config = facts_of(find(model, offline=offline, report=report))
        from cutaway.ground.sites import all_sites

        table = all_sites(config)
    if as_json:
        print_json([vars(site) | {"name": name} for name, site in table.items()])
    else:
        print(_names(table, config.n_layers))


def _names(table: "dict[str, Site]", n_layers: int) -> str:
    """Every site in a line; all blocks in one, except what the first block alone computes otherwise."""
    rows: list[tuple[str, Site]] = []
    for name, site in table.items():
        later = table.get(name.replace("blocks.0.", "blocks.1.", 1), site)
        label = name.replace("blocks.0.", "blocks.*.", 1)
        if not name.startswith("blocks.") or (name != label and later == site):
            rows.append((label, site))
        elif name != label:
            rows += [(name, site), (label, later)]
    wide = max(len(label) for label, _ in rows)
    lines = [f"{'site':<{wide}}  {'shape':<7}  formula (block * is 0 to {n_layers - 1})"]
    for label, site in rows:
        start, formula = f"{label:<{wide}}  {site.shape:<7}", _formula(site)
        fits = len(start) + 2 + len(formula) <= WIDTH
        lines += [f"{start}  {formula}"] if fits else [start.rstrip(), f"    {formula}"]
    return "\n".join(lines)


def _formula(site: "Site") -> str:
    """The formula, with the name of what it calls x."""
    if not re.search(r"\bx\b", site.formula):
        return site.formula
    parent = re.sub(r"^blocks\.\d+\.(.*)", r"\1 of the block before", site.parents[0])
    return parent if site.formula == "x" else f"{site.formula}, x = {parent}"
