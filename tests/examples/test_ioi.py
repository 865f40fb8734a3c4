"""examples/ioi_patching.ipynb is short, and in full precision its numbers are TransformerLens's on the same weights.

ioi_figures.json holds theirs, with the versions and the command that made them (ioi_in_transformer_lens.py).
"""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.examples.notebooks import EXAMPLES, code, read
from tests.parity.real import ours

FIGURES = json.loads((Path(__file__).parent / "ioi_figures.json").read_text(encoding="utf-8"))
CELLS = code(read(EXAMPLES / "ioi_patching.ipynb"))
NEAR = 1e-3  # in logits, and nats

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real")]


def shows(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr)  # print(…), ….plot()


def test_the_experiment_is_20_lines():
    asked = [statement for cell in CELLS for statement in ast.parse(cell).body if not shows(statement)]
    assert sum((one.end_lineno or one.lineno) - one.lineno + 1 for one in asked) <= 20


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """The notebook's names, its model in full precision; without its longest cell, of one pair alone."""
    names: dict[str, Any] = {"lm": ours()}
    for cell in CELLS[1:]:
        if not cell.startswith("stream = "):
            kept = [statement for statement in ast.parse(cell).body if not shows(statement)]
            exec(compile(ast.Module(kept, []), "ioi_patching", "exec"), names)
    return names


def near(value: Tensor, figures: Any) -> bool:
    return float((value.double().cpu() - torch.tensor(figures, dtype=torch.float64)).abs().max()) < NEAR


def test_lens_and_logit_difference(found: dict[str, Any]):
    read_out = found["lens"].lens.difference.mean
    assert near(read_out, FIGURES["lens"]) and near(read_out[-1], FIGURES["clean"]) and FIGURES["clean"] > 3


def test_attribution(found: dict[str, Any]):
    parts = found["heads"].parts
    of = {part: value for part, value in zip(parts.what, parts.values.mean, strict=True) if " head " in part}
    heads = len(FIGURES["heads"][0])
    assert len(of) == len(FIGURES["heads"]) * heads
    ours = torch.stack([of[f"blocks.{i // heads}.attn head {i % heads}"] for i in range(len(of))])
    assert near(ours.view(-1, heads), FIGURES["heads"])


def test_patching(found: dict[str, Any]):
    sweep = found["patched"].sweep
    assert near(sweep.values.mean, FIGURES["patched"])
    assert near(sweep.clean.mean, FIGURES["clean"]) and near(sweep.corrupt.mean, FIGURES["corrupt"])


def test_ablation(found: dict[str, Any]):
    ablation = found["ablated"].ablation
    assert near(ablation.unablated.mean + ablation.change.mean[FIGURES["block"]], FIGURES["ablated"])


def test_steering(found: dict[str, Any]):
    assert abs(float(found["steered"].effect.kl[0]) - FIGURES["steered"]) < NEAR
