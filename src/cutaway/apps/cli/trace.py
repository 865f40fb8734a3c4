"""`cutaway trace`: the values of one pass, by site.

It prints what a trace holds; it does not know how a value was computed.
"""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from cutaway.apps.cli.common import Options, busy, note, read_texts, verb
from cutaway.apps.cli.options import TEXTS, EditsFile, Figure, NoSpecial, Save
from cutaway.ground.errors import BadArgument, BadText

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
    typer.Option(metavar="ELEMENT", help='Decompose one number, as in "blocks.3.attn.z[0,2,1,5]"; may be repeated.'),
]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Show the trace's bytes, and run nothing.")]
Budget = Annotated[str | None, typer.Option(metavar="BYTES", help='Refuse to record more than this: "2 GB".')]
Positions = Annotated[
    str | None, typer.Option(metavar="LIST", help='Only these positions of each text: "0,5,-1"; -1 is the last.')
]
Until = Annotated[str | None, typer.Option(metavar="SITE", help="End the pass after this site.")]
To = Annotated[str | None, typer.Option(metavar="WHERE", help="Where values go: cpu, disk, or a folder.")]


@verb
def trace(
    options: Options,
    texts: Annotated[list[str] | None, TEXTS] = None,
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
    figure: Figure = None,
    no_special_tokens: NoSpecial = False,
) -> None:
    """Record the values of one pass, by site.

    With --show or --why and no --sites, only what they need is recorded.
    """
    if figure is not None and (plan or sites_list):
        both = f"--figure with {'--plan' if plan else '--sites-list'}"
        raise BadArgument(both, "one of the two", "leave one out: only values are drawn")
    if sites_list:
        with busy("reading the config") as report:
            from cutaway.show.sites import finding

            names = finding(options.config(report))
        options.print(names)
        return
    if not texts:
        raise BadText("no TEXT", "one text or several", "pass one, or --sites-list for the names of the sites")
    read = read_texts(texts)
    elements = [element(each) for each in why or []]
    where = Path(to) if to is not None and Path(to).is_dir() else to
    how: dict[str, Any] = {"positions": positions and _numbers(positions), "until": until, "to": where}
    with options.opened() as lm:
        from cutaway.ground.select import select
        from cutaway.ground.sites import parents_of
        from cutaway.show.trace import Recorded

        explained = select(lm.config, [name for name, _ in elements]) if elements else []
        needed = [each for name in explained for each in (name, *parents_of(lm.config, name))]
        wanted = [*(sites or []), *(show or []), *needed] or ["*"]
        tokens = lm.tokens(read, not no_special_tokens)
        cost = lm.plan(tokens, wanted, **how)
        values = None if plan else lm.trace(tokens, wanted, edits=edits or (), budget=budget, **how)
        effect = None if edits is None or plan else lm.effect(tokens, edits)
    if values is None:
        options.print(cost)
        return
    if save is not None:
        values.save(save)
        note(f"wrote {len(values)} values to {save}.")
    shown, found = select(lm.config, show) if show else [], [lm.why(values, name, *index) for name, index in elements]
    full = bool(sites) or not (show or why)
    options.print(Recorded(values, shown, found, effect, full, lm.token_text), figure)


def element(written: str) -> tuple[str, tuple[int, ...]]:
    """ "blocks.3.attn.z[0,2,1,5]" as a name and an index. Raises BadArgument for anything else."""
    parts = re.fullmatch(r"\s*([^\[\]]+)\[([-\d,\s]+)\]\s*", written)
    if parts is None:
        raise BadArgument(f"--why {written!r}", "a site and an index on each axis", 'write "blocks.3.attn.z[0,2,1,5]"')
    return parts[1].strip(), tuple(_numbers(parts[2]))


def _numbers(written: str) -> list[int]:
    try:
        return [int(part) for part in written.split(",")]
    except ValueError as error:
        raise BadArgument(repr(written), "whole numbers with commas between", 'write for example "0,5,-1"') from error
