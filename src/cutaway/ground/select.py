"""Choosing sites by pattern: "blocks.*.attn.pattern", "blocks.3-7.resid_post", a list of them, or a predicate.

It knows a model's site names, not their values.
"""

import difflib
import re
from collections.abc import Callable, Sequence

from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument
from cutaway.ground.sites import all_sites, clean_name

Selection = str | Sequence[str] | Callable[[str], bool]


def select(config: DecoderConfig, sites: Selection) -> list[str]:
    """Names of the chosen sites, in the order of the forward pass.

    `*` matches any characters, `3-7` the blocks 3 to 7. TransformerLens's `hook_` is removed.
    Raises BadArgument where a pattern matches nothing, with the nearest names.
    """
    names = list(all_sites(config))
    if callable(sites):
        return [name for name in names if sites(name)]
    patterns = [sites] if isinstance(sites, str) else sites
    if not isinstance(patterns, Sequence | set | frozenset) or not all(isinstance(each, str) for each in patterns):
        expected = 'a pattern such as "blocks.*.resid_post", several, or a function of a name'
        raise BadArgument(f"sites={sites!r}", expected, "see `cutaway trace --sites-list` for all names")
    chosen: set[str] = set()
    for pattern in patterns:
        matched = [name for name in names if _matches(clean_name(pattern), name)]
        if not matched:
            raise BadArgument(f"no site {pattern!r}", f"a site of this model, such as {nearest(pattern, names)}",
                              "see `cutaway trace --sites-list` for all names")  # fmt: skip
        chosen.update(matched)
    return [name for name in names if name in chosen]


def nearest(name: str, names: Sequence[str]) -> str:
    """The most similar names, for a message."""
    close = difflib.get_close_matches(clean_name(name), names, n=3, cutoff=0.3) or list(names[:3])
    return ", ".join(close)


def _matches(pattern: str, name: str) -> bool:
    layer = re.search(r"^blocks\.(\d+)\.", name)
    span = re.search(r"^blocks\.(\d+)-(\d+)\.", pattern)
    if span and int(span[1]) > int(span[2]):
        raise BadArgument(f"the blocks {span[1]} to {span[2]} in {pattern!r}", "the lower first", "swap them")
    if span:
        if layer is None or not int(span[1]) <= int(layer[1]) <= int(span[2]):
            return False
        pattern = pattern.replace(span[0], layer[0], 1)
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name) is not None
