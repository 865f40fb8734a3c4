"""A trace's values as pictures: attention head by head, and every other site's size, block × position.

It knows values and where they belong; it does not know how a picture is drawn.
"""

import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cutaway.ground.sites import all_sites
from cutaway.show.pictures import Heatmap, Picture
from cutaway.trace.trace import Trace

MOST = 12  # pictures that are drawn one by one; of more sites the residual stream and what is added to it
STREAM = ("resid_post", "attn_out", "mlp_out")


def maps(values: Trace, names: Sequence[str]) -> list[Picture]:
    """Of the first text's values at these sites."""
    drawn = list(_maps(values, names))
    if len(drawn) <= MOST:
        return drawn
    fewer = [name for name in names if name.endswith(STREAM)]
    return [*_maps(values, fewer)][:MOST] if fewer else drawn[:MOST]


def _maps(values: Trace, names: Sequence[str]) -> Iterator[Picture]:
    kinds: dict[str, list[str]] = {}
    for name in names:
        attention = all_sites(values.config)[name].shape.endswith("S")
        kinds.setdefault(name if attention else re.sub(r"^blocks\.\d+\.", "", name), []).append(name)
    for kind, same in kinds.items():
        if kind in values and all_sites(values.config)[kind].shape.endswith("S"):
            yield from _heads(values, kind)
        else:
            yield _sizes(values, kind, same)


def _heads(values: Trace, name: str) -> Iterator[Picture]:
    words = pieces(values)
    for head, of_TS in enumerate(values[name][0].detach().float().cpu()):
        shown = of_TS.masked_fill(of_TS.isinf(), float("nan"))
        unit = "share" if name.endswith("pattern") else "score"
        keys = words if shown.shape[1] == len(words) else [str(i) for i in range(shown.shape[1])]
        yield Heatmap(f"{name}, head {head}", shown, words, keys, "query", "key", unit)


def _sizes(values: Trace, kind: str, names: Sequence[str]) -> Picture:
    """Root mean square of a position's values, one row for each block."""
    rows = torch.stack([_size(values[name][0]) for name in names])
    blocks = [name.split(".")[1] if name.startswith("blocks.") else name for name in names]
    title = f"{kind}: size at each position"
    return Heatmap(title, rows, blocks, pieces(values), "block", "position", "root mean square")


def _size(value: Tensor) -> Tensor:
    return value.detach().float().cpu().flatten(1).square().mean(1).sqrt()


def pieces(values: Trace) -> list[str]:
    """The words on the axis of positions: pieces, or ids, of the first text."""
    tokens = values.tokens
    first, ids, real = (tokens.pieces or (None,))[0], tokens.ids[0].tolist(), tokens.mask[0].tolist()
    words = [str(id) for id in ids] if first is None else [piece.visible for piece in first]
    if values.positions is None:
        return words
    own = [word for word, is_real in zip(words, real, strict=True) if is_real]  # positions count these
    return [own[i] for i in values.positions]
