"""Eight bits as text: the bytes they save, and one number of a layer's result as its codes and scales.

Computed as data first, then drawn from the data alone. It does not know which view shows it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from cutaway.model.architecture import nbytes, size
from cutaway.model.decoder import Decoder
from cutaway.quant.explain import HEAD, Explained, int8_layers
from cutaway.show.layout import Line, dim, unbroken
from cutaway.weights.checkpoint import Checkpoint
from cutaway.weights.save import source_bytes

FIRST = 24  # codes that the data carries
DRAWN, DRAWN_WIDE = 8, 5  # codes that fit in a line of 80 columns, of 8 bits and of 16


def saving(decoder: Decoder, checkpoint: Checkpoint) -> dict[str, Any]:
    """Which layers are in 8 bits and their bytes, and the model's bytes beside those of the files it was made from.

    A tied head has no parameters of its own: its codes are bytes added to those of the embedding's table.
    """
    layers = int8_layers(decoder)
    theirs, ours = source_bytes(checkpoint), nbytes(decoder)
    return {
        "layers": list(layers), "bytes": sum(layer.nbytes for layer in layers.values()), "bytes_model": ours,
        "bytes_checkpoint": theirs, "bytes_saved": theirs - ours, "tied": decoder.config.tied_head and HEAD in layers,
    }  # fmt: skip


def saving_line(int8: dict[str, Any]) -> str:
    """The data of `saving` in words. It may be more than the checkpoint's: that may have fewer bits, or one matrix for
    the embedding and the head."""
    count = int8["bytes_saved"]
    saved = f"saves {size(count)}" if count >= 0 else f"takes {size(-count)} more"
    tied = "\n  (the head's codes are stored beside the embedding's table)" if int8["tied"] else ""
    whole = f"the model {size(int8['bytes_model'])}, its checkpoint {size(int8['bytes_checkpoint'])}"
    return f"{size(int8['bytes'])}\n  {whole}: {saved}{tied}"


def one_output(explained: Explained, at: tuple[int, ...], row: int) -> dict[str, Any]:
    """The first codes of a weight row and of a token's activation, their scales, and the number they give.

    at: the token's index in x, such as (text, position). row: which output.
    """
    output = explained.output(at, row)
    return {
        "mode": explained.mode, "row": row, "rows": len(explained.weight_codes),
        "weight": {"codes": output.weight_codes[:FIRST].tolist(), "scales": list(output.weight_scales)},
        "activation": {"codes": output.activation_codes[:FIRST].tolist(), "scales": list(output.activation_scales)},
        "outlier_columns": list(output.outlier_columns), "products": list(output.products),
        "inlier": output.inlier, "outlier": output.outlier, "bias": output.bias, "value": output.value,
    }  # fmt: skip


def draw_codes(data: dict[str, Any], token: str) -> Iterable[Line]:
    """The data of `one_output`, no line over 80 columns. token: the text of the activation's token, 14 columns."""
    yield _line(f"weight row {data['row']}", data["weight"]["codes"], data["weight"]["scales"], grouped(data))
    yield _line(f"at {token}", data["activation"]["codes"], data["activation"]["scales"], grouped(data))
    yield from ([line] for line in unbroken(_terms(data)))
    if data["outlier_columns"]:
        yield dim(f"outliers here, in float: columns {_some(data['outlier_columns'])}")


def grouped(data: dict[str, Any]) -> bool:
    """Whether the weight's row has a scale for each group of columns, and the activation 16 bits."""
    return data["mode"] == "int8"


def _line(label: str, codes: Sequence[int], scales: Sequence[float], wide: bool) -> Line:
    shown = "".join(f"{code:>7}" for code in codes[:DRAWN_WIDE]) if wide else "".join(f"{c:>5}" for c in codes[:DRAWN])
    more = f" of {len(scales)}" if len(scales) > 1 else ""
    return [(f"{label:<17}", "bold"), f"{shown} …", (f"  scale {scales[0]:.4g}{more}", "dim")]


def _terms(data: dict[str, Any]) -> list[str]:
    """The parts of the number, in the order of the formula; those that are absent left out."""
    products, scales = data["products"], f"{data['weight']['scales'][0]:.4g} · {data['activation']['scales'][0]:.4g}"
    terms = [f"Σ code·code {products[0]:,} · {scales}{'' if grouped(data) else ' / 127²'}"]
    terms += [f"+ {len(products) - 1} more groups"] if len(products) > 1 else []
    terms += [f"+ outliers {data['outlier']:.4g}"] if data["outlier_columns"] else []
    terms += [f"+ bias {data['bias']:.4g}"] if data["bias"] else []
    return [*terms, f"= {data['value']:.5g}"]


def _some(columns: Sequence[int]) -> str:
    shown = ", ".join(map(str, columns[:5]))
    return f"{shown} and {len(columns) - 5} more" if len(columns) > 5 else shown
