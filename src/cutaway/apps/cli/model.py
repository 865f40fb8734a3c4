"""`cutaway model`: what a model is made of, with shapes, parameters and bytes, before its weights are here.

It prints what config.json or a file's header says; it does not know any module, and reads no weights.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.apps.cli.columns import columns
from cutaway.apps.cli.options import Debug, Device, Dtype, Json, Model, Offline, Quantize
from cutaway.apps.cli.running import busy, note, print_json, require_known

if TYPE_CHECKING:
    from cutaway.lm import LM

CGROUP = Path("/sys/fs/cgroup/memory.max")  # what a container may use, where that is less than the machine has


def model(
    model: Model = None,
    quantize: Quantize = "int8",
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the architecture: modules, shapes, parameters, bytes.

    A config.json is enough: of a hub id nothing else is fetched.
    """
    require_known(quantize)
    with busy("starting") as report:
        from cutaway.lm import LM
        from cutaway.weights.opening import described, outline, sizes

        checkpoint, name = described(model, offline=offline, progress=report)
        lm = LM(outline(checkpoint, quantize=quantize, dtype=dtype, device=device), checkpoint, name)
        in_bytes = sizes(checkpoint)
    if not as_json:
        print(_page(lm, in_bytes))
        return
    for line in lm.notes:
        note(line)
    print_json(_data(lm, in_bytes))


def _data(lm: "LM", in_bytes: dict[str, int]) -> dict[str, Any]:
    """opened: the bytes with the options given; bytes: those of each precision."""
    from cutaway.model import architecture

    return {
        "model": lm.name,
        "facts": architecture.facts(lm.config),
        "modules": [vars(row) for row in architecture.rows(lm.decoder)],
        "parameters": architecture.parameters(lm.decoder),
        "opened": architecture.nbytes(lm.decoder),
        "bytes": in_bytes,
        "memory": _memory(),
    }


def _page(lm: "LM", in_bytes: dict[str, int]) -> str:
    """What print(lm) shows, and what each precision takes."""
    from cutaway.model.architecture import size

    memory = _memory()
    cells = [("all weights in", "", "")]
    for precision, count in in_bytes.items():
        fits = "" if memory is None else "fits" if count < memory else "does not fit"
        cells.append((f"  {precision}", size(count), fits))
    here = [] if memory is None else [f"this machine has {size(memory)} of memory"]
    return "\n".join([str(lm), "", columns(cells, right=(1,)), *here])


def _memory() -> int | None:
    """Bytes of memory that a process here may use, where the system says so."""
    try:
        own = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf, others not these names
        return None
    allowed = CGROUP.read_text().strip() if CGROUP.is_file() else ""
    return min(own, int(allowed)) if allowed.isdigit() else own
