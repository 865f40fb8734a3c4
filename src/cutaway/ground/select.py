"""Choosing by name: a pattern's sites ("resid_post", "blocks.0-3,7.attn.z", a list, a predicate), or one full name.

It knows names, of sites and of weights, not their values.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument
from cutaway.ground.sites import all_sites, clean_name
from cutaway.ground.whole import whole

Selection = str | Sequence[str] | Callable[[str], bool]
BLOCK = re.compile(r"blocks\.(\d+)\.")
SPANS = re.compile(r"blocks\.(\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)\.")

Value = TypeVar("Value")


class ByName(Mapping[str, Value]):
    """What is looked up by name, block and head, and refuses a wrong name in a sentence instead of a KeyError."""

    def get(self, key: Any, default: Any = None) -> Any:
        """The value, or the default where there is none of that name."""
        try:
            return self[key]
        except BadArgument:
            return default


def select(config: DecoderConfig, sites: Selection) -> list[str]:
    """Names of the chosen sites, in the order of the forward pass.

    `*` matches any characters; `3-7`, `3,5` and `0-3,7` are blocks; a name without its block ("attn.z") is every
    block's. TransformerLens's `hook_` is removed. Raises BadArgument where a pattern matches nothing, with the nearest
    names, or names a block that the model has not.
    """
    names = list(all_sites(config))
    if callable(sites):
        return [name for name in names if sites(name)]
    patterns = [sites] if isinstance(sites, str) else sites
    if not isinstance(patterns, Sequence | set | frozenset) or not all(isinstance(each, str) for each in patterns):
        expected = 'a pattern such as "resid_post", several, or a function of a name'
        raise BadArgument(f"sites={sites!r}", expected, "see `cutaway trace --sites-list` for all names")
    chosen: set[str] = set()
    for pattern in patterns:
        matched = _matching(clean_name(pattern), names)
        if not matched:
            raise BadArgument(f"no site {pattern!r}", f"a site of this model, such as {nearest(pattern, names)}",
                              "see `cutaway trace --sites-list` for all names")  # fmt: skip
        chosen.update(matched)
    return [name for name in names if name in chosen]


def full_name(kind: str, key: Any, names: Sequence[str]) -> str:
    """The one name that a key means: "blocks.5.resid_post", or ("resid_post", 5), the block from 0 or from -1 back.

    kind: "site" or "weight", for the message. Raises BadArgument for any other key, with the nearest names.
    """
    name, *block = key if isinstance(key, tuple) and key else (key,)
    if not isinstance(name, str) or len(block) > 1:
        raise BadArgument(f"the {kind} {key!r}", "a name, or a name and a block", f"write for example {names[-1]!r}")
    name = clean_name(name)
    if name in names:
        if block:
            relative = BLOCK.sub("", name)
            expected = f"{name!r} alone" if relative == name else f"a name without its block, such as {relative!r}"
            raise BadArgument(f"the block {block[0]!r} for {name!r}", expected, "leave out one of the two")
        return name
    blocks = [each for each in names if BLOCK.match(each) and BLOCK.sub("", each) == name]
    if not blocks:
        raise BadArgument(f"no {kind} {name!r}", f"a {kind} of this model, such as {nearest(name, names)}",
                          "correct the name")  # fmt: skip
    number = whole(block[0]) if block else None
    if number is None or not -len(blocks) <= number < len(blocks):
        found = f"{name!r} of block {block[0]!r}" if block else f"{name!r}, which every block has"
        do = f'name {blocks[-1]}, or in Python ["{name}", {len(blocks) - 1}]'
        raise BadArgument(found, f"a block of 0 to {len(blocks) - 1} beside it", do)
    return blocks[number]


def nearest(name: str, names: Sequence[str]) -> str:
    """The most similar names, for a message: without their blocks, unless this one has one."""
    clean = clean_name(name)
    known = list(names) if clean.startswith("blocks") else list(dict.fromkeys(BLOCK.sub("", each) for each in names))
    ending = [each for each in known if clean and each.endswith((f".{clean}", f"_{clean}"))]
    close = [*ending, *difflib.get_close_matches(clean, known, n=3, cutoff=0.3)] or known
    return ", ".join(list(dict.fromkeys(close))[:3])


def _matching(pattern: str, names: Sequence[str]) -> list[str]:
    """The names that a pattern matches, in full or without their block."""
    spans = SPANS.match(pattern)
    if spans is None:
        written = _regex(pattern)
        return [name for name in names if written.fullmatch(name) or written.fullmatch(BLOCK.sub("", name))]
    written = _regex(pattern[spans.end() :])
    fitting = {name: int(block[1]) for name in names if (block := BLOCK.match(name)) and
               written.fullmatch(name[block.end() :])}  # fmt: skip
    wanted = [_span(part, pattern) for part in spans[1].split(",")]
    missing = [span for span in wanted if not any(block in span for block in fitting.values())]
    if fitting and missing:
        last = max(fitting.values())
        expected = f"blocks of 0 to {last}, not {missing[0].start}"
        raise BadArgument(f"no site {pattern!r}", expected, "name blocks that the model has")
    return [name for name, block in fitting.items() if any(block in span for span in wanted)]


def _span(written: str, pattern: str) -> range:
    """The blocks of "3" or "3-7"."""
    first, _, last = written.partition("-")
    if last and int(first) > int(last):
        raise BadArgument(f"the blocks {first} to {last} in {pattern!r}", "the lower first", "swap them")
    return range(int(first), int(last or first) + 1)


def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", ".*"))
