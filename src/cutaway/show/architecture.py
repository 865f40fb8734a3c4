"""A model's modules, and their bytes in each precision, as data and as text.

It does not know whether the weights are on this machine: shapes are enough.
"""

from typing import Any

from cutaway.model import architecture
from cutaway.model.architecture import size
from cutaway.model.decoder import Decoder
from cutaway.show.finding import Listing
from cutaway.show.layout import columns


def finding(model: str, printed: str, decoder: Decoder, in_bytes: dict[str, int], memory: int | None) -> Listing:
    """printed: the model as it prints itself. in_bytes: all weights in each precision. memory: what a process here may
    use, None where unknown.

    data: "opened" is the bytes with the options given, "bytes" those of each precision.
    """
    needs = {"opened": architecture.nbytes(decoder), "bytes": in_bytes, "memory": memory}
    cells, here = [("all weights in", "", "")], []
    for precision, count in in_bytes.items():
        fits = "" if memory is None else "fits" if count < memory else "does not fit"
        cells.append((f"  {precision}", size(count), fits))
    if memory is not None:
        here = [f"this machine has {size(memory)} of memory"]
    text = "\n".join([printed, "", columns(cells, right=(1,)), *here])
    return Listing({"model": model, **made_of(decoder), **needs}, text)


def made_of(decoder: Decoder) -> dict[str, Any]:
    """The model in one line, its modules, and the sum of their parameters."""
    return {
        "facts": architecture.facts(decoder.config),
        "modules": [vars(row) for row in architecture.rows(decoder)],
        "parameters": architecture.parameters(decoder),
    }
