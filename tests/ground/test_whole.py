"""A whole number is what has an index to Python, numpy's and torch's too; nothing else is one."""

from typing import Any

import numpy as np
import pytest
import torch

from cutaway.ground.errors import BadArgument
from cutaway.ground.whole import indexes, require_whole, whole

KINDS = [np.int64, np.int8, np.uint16, torch.tensor, lambda n: torch.tensor(n, dtype=torch.int32), np.array]
NONE = [
    1.0,
    "3",
    True,
    np.float32(1),
    np.bool_(True),
    np.array(True),
    torch.tensor(1.0),
    torch.tensor(True),
    1 + 0j,
    b"3",
    [1.0],
    {},
]


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_has_an_index_is_that_whole_number(kind: Any):
    found = whole(kind(3))
    assert found == 3 and type(found) is int
    assert require_whole("n", kind(3), 3, "pass 3") == 3


@pytest.mark.parametrize("value", [*NONE, None, torch.tensor(1, device="meta")], ids=repr)
def test_nothing_else_is_one(value: Any):
    assert whole(value) is None
    with pytest.raises(BadArgument, match="expected a whole number, 0 or above; pass 3"):
        require_whole("n", value, 0, "pass 3")


def test_indexes_once_and_twice():
    assert indexes("n", None) is None
    assert indexes("n", np.int64(-2), signed=True) == -2
    assert indexes("n", [1, 1], distinct=False) == (1, 1)
    with pytest.raises(BadArgument, match="found n=-2; expected one or several different whole numbers from 0"):
        indexes("n", -2)
