"""The README's Python runs as it stands, and so does every example, on the real default model."""

import re
import runpy
from pathlib import Path

import pytest

from tests.parity.real import file

ROOT = Path(__file__).parents[2]
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real")]


def test_the_readme_has_python():
    assert SNIPPETS


def test_the_readmes_python_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    file()  # skips where the model cannot be fetched
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in SNIPPETS:  # one after the other, as a reader would
        exec(compile(code, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "134,515,008" in printed and "␣Machine" in printed and "falls in" in printed
    assert "recomputed" in printed and "claims hold" in printed and (tmp_path / "recipe.json").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_every_example_runs(path: Path, capsys: pytest.CaptureFixture[str]):
    file()
    runpy.run_path(str(path))["main"]()
    assert len(capsys.readouterr().out.splitlines()) >= 5
