"""Every matrix of the table can be changed for a while, alone among the rows of its module, and comes back."""

from pathlib import Path

import pytest
import torch

from cutaway.edit.weights import changed
from cutaway.ground.layers import all_weights
from tests.explain.by_formula import FAMILIES, decoder


@pytest.mark.parametrize("name", FAMILIES)
def test_every_matrix_changes_its_own_rows_and_comes_back(name: str, tmp_path: Path):
    model = decoder(name, tmp_path)
    for weight in all_weights(model.config).values():
        if weight.kind in ("linear", "projection"):
            before = model.get_submodule(weight.module)
            expected = before.weight.detach().clone()  # type: ignore[union-attr,operator]
            expected[weight.rows] *= 2
            with changed(model, {weight.name: expected[weight.rows]}):
                assert torch.equal(model.get_submodule(weight.module).weight, expected)  # type: ignore[arg-type]
            assert model.get_submodule(weight.module) is before
