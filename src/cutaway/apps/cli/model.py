"""`cutaway model`: a model's modules, with shapes, parameters and bytes, before its weights are fetched.

It reads config.json or a file's header; it does not know any module, and reads no weights.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from cutaway.apps.cli.common import Options, busy, note, verb

CGROUP = Path("/sys/fs/cgroup/memory.max")  # what a container may use, where that is less than the machine has


Sites = Annotated[bool, typer.Option("--sites", help="List the values of a pass instead: names, shapes, formulas.")]


@verb
def model(options: Options, sites: Sites = False) -> None:
    """Show the architecture: modules, shapes, parameters, bytes.

    A config.json is enough: of a hub id nothing else is fetched.
    """
    with busy("starting") as report:
        from cutaway.lm import LM
        from cutaway.show.architecture import finding
        from cutaway.weights.opening import described, outline, sizes

        checkpoint, name = described(options.model, offline=options.offline, progress=report)
        if sites:
            from cutaway.show.sites import finding as listed

            options.print(listed(checkpoint.facts))
            return
        decoder = outline(checkpoint, quantize=options.quantize or "auto", dtype=options.dtype, device=options.device)
        lm = LM(decoder, checkpoint, name)
        found = finding(name, str(lm), decoder, sizes(checkpoint), _memory())
    for line in lm.notes if options.as_json else ():  # the text has them
        note(line)
    options.print(found)


def _memory() -> int | None:
    """Bytes of memory that a process may use; None where the system does not tell."""
    try:
        own = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf, others not these names
        return None
    allowed = CGROUP.read_text().strip() if CGROUP.is_file() else ""
    return min(own, int(allowed)) if allowed.isdigit() else own
