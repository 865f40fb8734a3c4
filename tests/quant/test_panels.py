"""Panels: codes and scales go in, in any portions, and come out; what lies beside them is zero."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.quant.formats import GROUP
from cutaway.quant.panels import LINES, ROWS, codes_of, panels_of, panels_shape, scales_of, write_rows
from tests.tiny import layer


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    rows=st.integers(1, 70), width=st.integers(1, 300), splits=st.lists(st.integers(0, 70), max_size=6),
    backwards=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_rows_written_in_any_portions_come_out_again(
    rows: int, width: int, splits: list[int], backwards: bool, seed: int
) -> None:
    codes, scale, _ = layer(rows, width, seed)
    codes[0, 0] = -128
    panels = torch.zeros(panels_shape(rows, width), dtype=torch.int8)
    ends = sorted({0, rows, *(split for split in splits if split < rows)})
    portions = list(pairwise(ends))
    for start, end in reversed(portions) if backwards else portions:
        write_rows(panels, start, codes[start:end], scale[start:end])
    assert torch.equal(codes_of(panels, rows, width), codes)
    assert torch.equal(scales_of(panels, rows), scale)
    assert torch.equal(panels, panels_of(codes, scale))
    beside = panels.view(torch.uint8).count_nonzero() - codes.count_nonzero()
    assert beside == scale.view(torch.int16).view(torch.uint8).count_nonzero()


def test_rows_may_be_written_again() -> None:
    (codes, scale, _), (other, its, _) = layer(40, 70), layer(40, 70, seed=1)
    panels = panels_of(other, its)
    for start, end in ((0, 5), (5, 16), (16, 33), (33, 40)):
        write_rows(panels, start, codes[start:end], scale[start:end])
    assert torch.equal(panels, panels_of(codes, scale))


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (16, 32), (17, 33), (50, 300)])
def test_each_byte_lies_where_the_kernels_read_it(rows: int, width: int) -> None:
    codes, scale, _ = layer(rows, width)
    lines = panels_of(codes, scale).numpy()
    assert lines.shape == (-(-rows // ROWS), -(-width // GROUP), LINES, GROUP)
    for n in range(0, rows, 3):
        for k in range(0, width, 5):
            panel, row, group, column = n // ROWS, n % ROWS, k // GROUP, k % GROUP
            assert lines[panel, group, 1 + column // 2, 2 * row + column % 2] == codes[n, k]
            found = lines[panel, group, 0, 2 * row : 2 * row + 2].tobytes()
            assert found == scale[n, group].numpy().tobytes()
