"""Panels: grouped 8-bit weights in the order in which every kernel reads them, and their codes and scales again.

A panel is 16 weight rows. For each group of 32 columns it holds their 16 scales (float16), then 16 pairs of columns,
each as two codes of each of the 16 rows: [panels, groups, 17, 32] bytes in all. Rows and columns that fill up the last
panel and group are 0. It does not know how the codes were made.
"""

import torch
from torch import Tensor

from cutaway.quant.formats import GROUP

ROWS = 16  # weight rows of a panel: one vector of results
LINES = GROUP // 2 + 1  # of 32 bytes: the scales, and each pair of columns


def panels_shape(rows: int, width: int) -> tuple[int, int, int, int]:
    """The shape of the panels of a weight [rows, width]."""
    return -(-rows // ROWS), -(-width // GROUP), LINES, GROUP


def panels_of(codes_NK: Tensor, scale_NG: Tensor) -> Tensor:
    """The panels of codes int8 [N, K] and scales float16 [N, G]."""
    panels = torch.zeros(panels_shape(*codes_NK.shape), dtype=torch.int8, device=codes_NK.device)
    write_rows(panels, 0, codes_NK, scale_NG)
    return panels


def write_rows(panels: Tensor, first: int, codes_NK: Tensor, scale_NG: Tensor) -> None:
    """Put rows `first` and following in: codes int8 [N, K] and scales float16 [N, G]. The panels must start as 0."""
    rows, width = codes_NK.shape
    groups = panels.shape[1]
    if width % GROUP:
        codes_NK = torch.nn.functional.pad(codes_NK, (0, groups * GROUP - width))
    pairs = codes_NK.contiguous().view(torch.int16).view(rows, groups, GROUP // 2)
    to_pairs, to_scales = _by_row(panels)
    end = first + rows
    inner, outer = min(-(-first // ROWS) * ROWS, end), max(end // ROWS * ROWS, min(-(-first // ROWS) * ROWS, end))
    for start, stop in ((first, inner), (inner, outer), (outer, end)):  # whole panels at once, and their rest
        if start == stop:
            continue
        part, many = slice(start - first, stop - first), (stop - start) // ROWS
        if start % ROWS == 0 and stop % ROWS == 0:
            at = slice(start // ROWS, stop // ROWS)
            to_pairs[at] = pairs[part].view(many, ROWS, groups, GROUP // 2)
            to_scales[at] = scale_NG[part].view(many, ROWS, groups)
        else:
            panel, row = start // ROWS, start % ROWS
            to_pairs[panel, row : row + stop - start] = pairs[part]
            to_scales[panel, row : row + stop - start] = scale_NG[part]


def codes_of(panels: Tensor, rows: int, width: int) -> Tensor:
    """A copy of the codes, int8 [rows, width]."""
    pairs, _ = _by_row(panels)
    return pairs.contiguous().view(-1, pairs[0, 0].numel()).view(torch.int8)[:rows, :width].contiguous()


def scales_of(panels: Tensor, rows: int) -> Tensor:
    """A copy of the scales, float16 [rows, G]."""
    return _by_row(panels)[1].flatten(0, 1)[:rows].contiguous()


def _by_row(panels: Tensor) -> tuple[Tensor, Tensor]:
    """Views: pairs of codes as int16 [panels, 16, G, 16], scales float16 [panels, 16, G]."""
    words = panels.view(torch.int16)  # [panels, groups, lines, 16]: a scale, or two codes, of each row
    return words[:, :, 1:].permute(0, 3, 1, 2), words[:, :, 0].view(torch.float16).transpose(1, 2)
