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
    from cutaway.model.decoder import Decoder

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
        from cutaway.weights.opening import described, outline, sizes

        checkpoint, name = described(model, offline=offline, progress=report)
        decoder = outline(checkpoint, quantize=quantize, dtype=dtype, device=device)
        in_bytes = sizes(checkpoint)
    for line in checkpoint.notes:
        note(line)
    if as_json:
        print_json(_data(name, decoder, in_bytes))
    else:
        print(_page(name, decoder, in_bytes))


def _data(name: str, decoder: "Decoder", in_bytes: dict[str, int]) -> dict[str, Any]:
    """opened: the bytes with the options given; bytes: those of each precision."""
    from cutaway.model import architecture

    return {
        "model": name,
        "facts": architecture.facts(decoder.config),
        "modules": [vars(row) for row in architecture.rows(decoder)],
        "parameters": architecture.parameters(decoder),
        "opened": architecture.nbytes(decoder),
        "bytes": in_bytes,
        "memory": _memory(),
    }


def _page(name: str, decoder: "Decoder", in_bytes: dict[str, int]) -> str:
    from cutaway.model import architecture

    memory = _memory()
    cells = [("all weights in", "", "")]
    for precision, count in in_bytes.items():
        fits = "" if memory is None else "fits" if count < memory else "does not fit"
        cells.append((f"  {precision}", architecture.size(count), fits))
    here = [] if memory is None else [f"this machine has {architecture.size(memory)} of memory"]
    return "\n".join([name, architecture.table(decoder), "", columns(cells, right=(1,)), *here])


def _memory() -> int | None:
    """Bytes of memory that a process here may use, where the system says so."""
    try:
        own = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf, others not these names
        return None
    allowed = CGROUP.read_text().strip() if CGROUP.is_file() else ""
    return min(own, int(allowed)) if allowed.isdigit() else own
