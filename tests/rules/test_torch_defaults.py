"""No new tensor of ours takes its dtype or its device from torch's defaults, which belong to the caller."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "cutaway"
FILES = sorted(path for path in SOURCE.rglob("*.py") if "torch." in path.read_text(encoding="utf-8"))
FLOATS = {"empty", "zeros", "ones", "full", "eye", "linspace", "rand", "randn", "normal", "scalar_tensor"}
WHOLE = {"arange", "randint", "randperm"}  # a dtype of their own
GIVEN = {"tensor", "as_tensor", "asarray"}  # from what they are given: floats take the default
SHAPES_ONLY = {("model/decoder.py", "empty"), ("model/sinks.py", "empty")}  # parameters that weights/load.py replaces


def unnamed(path: Path) -> list[str]:
    """Calls of torch.zeros and the like without a device, or, where they may make floats, without a dtype."""
    name, wrong = str(path.relative_to(SOURCE)), []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        made = node.func.attr if ast.unparse(node.func.value) == "torch" else ""
        given = {keyword.arg for keyword in node.keywords}
        missing = {"device"} - given if made in FLOATS | WHOLE | GIVEN else set()
        missing |= {"dtype"} - given if made in FLOATS else set()
        if missing and (name, made) not in SHAPES_ONLY:
            wrong.append(f"{name}:{node.lineno} torch.{made} without {' and '.join(sorted(missing))}")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_dtype_and_device_are_said(path: Path):
    assert not unnamed(path)
