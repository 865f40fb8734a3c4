"""The sites of a model, with shapes and formulas: as data, and as a list in which blocks alike share a line.

It does not know any value.
"""

import re
import textwrap

from cutaway.ground.config import DecoderConfig
from cutaway.ground.shapes import sizes
from cutaway.ground.sites import Site, all_sites, block_sites
from cutaway.show.finding import Listing
from cutaway.show.layout import WIDTH

LONGEST = 12  # characters of a list of blocks in a name


def finding(config: DecoderConfig) -> Listing:
    """A line for each site of a block, with the blocks that have it by that formula; one for each other site."""
    sites = all_sites(config)
    others = [(name, site) for name, site in sites.items() if not name.startswith("blocks.")]
    rows = [(name, site.shape, formula(site).replace("the block before", "the last block")) for name, site in others]
    first = sum(name.startswith("embed") for name, *_ in rows)
    rows[first:first] = _of_blocks(config)
    wide = max(len(label) for label, *_ in rows)
    lines = [_axes(config), f"{'site':<{wide}}  {'shape':<7}  formula (block * is 0 to {config.n_layers - 1})"]
    for label, shape, text in rows:
        start = f"{label:<{wide}}  {shape:<7}"
        fits = len(start) + 2 + len(text) <= WIDTH
        lines += [f"{start}  {text}"] if fits else [start.rstrip(), *_wrapped(text)]
    return Listing([vars(site) | {"name": name} for name, site in sites.items()], "\n".join(lines))


def _of_blocks(config: DecoderConfig) -> list[tuple[str, str, str]]:
    """Label, shape and formula: blocks alike in one row, the rows in the order of the forward pass."""
    order: list[str] = []
    found: dict[str, dict[tuple[str, str], list[int]]] = {}  # name → (shape, formula) → blocks
    for layer in range(config.n_layers):
        at = 0
        for site in block_sites(config, layer):
            if site.name not in found:
                order.insert(at, site.name)
            at = order.index(site.name, at) + 1
            found.setdefault(site.name, {}).setdefault((site.shape, formula(site)), []).append(layer)
    rows = []
    for name in order:
        for (shape, text), blocks in found[name].items():
            span = _span(blocks, config.n_layers)
            some = len(span) > LONGEST
            text = f"{text}, in {len(blocks)} of {config.n_layers} blocks: {span}" if some else text
            rows.append((f"blocks.{'*' if some else span}.{name}", shape, text))
    return rows


def _span(blocks: list[int], count: int) -> str:
    """As `select` reads them: *, 0, 1-5 or 0-2,4."""
    if len(blocks) == count:
        return "*"
    starts = [block for block in blocks if block - 1 not in blocks]
    ends = [block for block in blocks if block + 1 not in blocks]
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def _axes(config: DecoderConfig) -> str:
    shown = {axis: size for axis, size in sizes(config).items() if size and (axis != "E" or config.projected)}
    return f"B texts, T positions, S attended to, {', '.join(f'{axis} {size}' for axis, size in shown.items())}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="      ", break_long_words=False)


def formula(site: Site) -> str:
    """The formula, with the name of its x."""
    if not re.search(r"\bx\b", site.formula):
        return site.formula
    parent = re.sub(r"^blocks\.\d+\.(.*)", r"\1 of the block before", site.parents[0])
    return parent if site.formula == "x" else f"{site.formula}, x = {parent}"
