"""`cutaway trace`: the values of one pass, by site.

It shows what a trace holds; it does not know how a value was computed.
"""

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutaway.apps.cli.columns import columns
from cutaway.apps.cli.options import Debug, Device, Dtype, Json, Model, Offline, Quantize
from cutaway.apps.cli.running import busy, facts_of, find, open_model, print_json, read_texts
from cutaway.ground.errors import BadText

if TYPE_CHECKING:
    from torch import Tensor

    from cutaway.ground.config import DecoderConfig
    from cutaway.ground.sites import Site
    from cutaway.trace.trace import Trace

WIDTH = 80
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


def trace(
    texts: Texts = None,
    sites: Sites = None,
    show: Show = None,
    sites_list: SitesList = False,
    model: Model = None,
    quantize: Quantize = "int8",
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Record the values of one pass, by site.

    With --show and no --sites, only the sites to show are recorded.
    """
    if sites_list:
        _list_sites(model, offline, as_json)
        return
    if not texts:
        raise BadText("no TEXT", "one text or several", "pass one, or --sites-list for the names of the sites")
    read = read_texts(texts)
    wanted = [*(sites or []), *(show or [])] or ["*"]
    with busy("starting") as report:
        lm = open_model(model, quantize=quantize, dtype=dtype, device=device, offline=offline, report=report)
        values = lm.trace(read, wanted)
        shown = _matching(lm.config, show)
    if as_json:
        print_json(_data(values, shown))
        return
    if sites or not show:
        print(_table(values))
    for place, name in enumerate(shown):
        print(("\n" if place or sites else "") + _values(values, name))


def _matching(config: "DecoderConfig", patterns: list[str] | None) -> list[str]:
    from cutaway.trace.select import select

    return select(config, patterns) if patterns else []


def _measure(value: "Tensor") -> dict[str, Any]:
    """Shape, dtype, bytes, and mean and largest size of the finite values: masked scores are -inf by design."""
    finite = value[value.isfinite()].float()
    mean, largest = (float(finite.mean()), float(finite.abs().max())) if finite.numel() else (None, None)
    dtype = str(value.dtype).removeprefix("torch.")
    return {"shape": list(value.shape), "dtype": dtype, "bytes": value.nbytes, "mean": mean, "largest": largest}


def _table(values: "Trace") -> str:
    measured = {name: _measure(value) for name, value in values.items()}
    rows = [("site", "shape", "bytes", "mean", "largest")]
    for name, m in measured.items():
        mean, largest = ("" if m[key] is None else f"{m[key]:.4g}" for key in ("mean", "largest"))
        rows.append((name, str(m["shape"]), f"{m['bytes']:,}", mean, largest))
    dtypes = ", ".join(dict.fromkeys(m["dtype"] for m in measured.values()))
    end = f"{len(values)} sites, {values.nbytes:,} bytes of {dtypes}; attention: {values.attention}"
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
