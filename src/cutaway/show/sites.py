"""The sites of a model, with shapes and formulas: as data, and as a list in which one block stands for all.

It does not know any value.
"""

import re

from cutaway.ground.config import DecoderConfig
from cutaway.ground.sites import Site, all_sites
from cutaway.show.finding import Listing
from cutaway.show.layout import WIDTH


def finding(config: DecoderConfig) -> Listing:
    """A line for each site; one for all blocks, unless the first block's formula differs."""
    sites, rows = all_sites(config), []
    for name, site in sites.items():
        later = sites.get(name.replace("blocks.0.", "blocks.1.", 1), site)
        label = name.replace("blocks.0.", "blocks.*.", 1)
        if not name.startswith("blocks.") or (name != label and later == site):
            rows.append((label, site))
        elif name != label:
            rows += [(name, site), (label, later)]
    wide = max(len(label) for label, _ in rows)
    lines = [f"{'site':<{wide}}  {'shape':<7}  formula (block * is 0 to {config.n_layers - 1})"]
    for label, site in rows:
        start, text = f"{label:<{wide}}  {site.shape:<7}", formula(site)
        fits = len(start) + 2 + len(text) <= WIDTH
        lines += [f"{start}  {text}"] if fits else [start.rstrip(), f"    {text}"]
    data = [vars(site) | {"name": name} for name, site in sites.items()]
    return Listing(data, "\n".join(lines))


def formula(site: Site) -> str:
    """The formula, with the name of its x."""
    if not re.search(r"\bx\b", site.formula):
        return site.formula
    parent = re.sub(r"^blocks\.\d+\.(.*)", r"\1 of the block before", site.parents[0])
    return parent if site.formula == "x" else f"{site.formula}, x = {parent}"
