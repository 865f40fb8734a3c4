"""The house rules, held by tests: floors, lengths, names, no value written over, docstrings, and what may print."""

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutaway.apps.cli.main import VERBS
from tests.rules.model_types import README, section, written

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "cutaway"
FILES = sorted(SOURCE.rglob("*.py"))
FUNCTION, MEDIAN, FILE, FORWARD = 60, 10, 400, 120
SHAPED = re.compile(r"\w+_[A-Z][A-Z0-9]*$")  # a variable that carries its shape: resid_BTD


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef):
            yield node


def length(node: ast.FunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_imports_only_point_down():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_functions_are_short(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE
    too_long = {f.name: length(f) for f in functions(path) if length(f) > FUNCTION}
    assert not too_long


def test_the_median_function_is_short():
    assert statistics.median(length(f) for path in FILES for f in functions(path)) < MEDIAN


def test_the_forward_pass_of_any_decoder_is_short_and_no_function_of_it_over_thirty_lines():
    path = SOURCE / "model" / "decoder.py"
    methods = list(functions(path))
    assert sum(length(f) for f in methods if f.name != "__init__") <= FORWARD
    assert max(length(f) for f in methods) <= 30
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 260


def test_no_family_is_named_in_the_model():
    families = [f.stem for f in (SOURCE / "weights" / "families").glob("*.py") if f.stem not in ("__init__", "facts")]
    assert {"opt", "gpt2", "llama"} <= set(families)
    names = re.compile("|".join(rf"\b{re.escape(f)}\b" for f in [*families, "hugging_?face"]), re.IGNORECASE)
    for path in (SOURCE / "model").glob("*.py"):
        code = [node.id for node in ast.walk(tree(path)) if isinstance(node, ast.Name)]
        code += [node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)]
        strings = [n.value for n in ast.walk(tree(path)) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        prose = {ast.get_docstring(n, clean=False) for n in ast.walk(tree(path)) if isinstance(n, _DOCUMENTED)}
        for text in [*code, *(s for s in strings if s not in prose and s != "llama3")]:  # a kind of rope, by its name
            assert not names.search(text), f"{path.name}: {text!r}"


def written_over(node: ast.AST) -> list[ast.expr]:
    """What += changes, and what x[...] = sets."""
    if isinstance(node, ast.AugAssign):
        return [node.target]
    return [t for t in node.targets if isinstance(t, ast.Subscript)] if isinstance(node, ast.Assign) else []


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
PURE = [p for floor in ("model", "sample", "analysis") for p in (SOURCE / floor).glob("*.py") if p.name != "cache.py"]


@pytest.mark.parametrize("path", PURE, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_value_is_written_over(path: Path):
    """No x.mul_(), no out=, no += and no item assignment on a variable that carries a shape."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            assert not any(k.arg == "out" for k in node.keywords), f"out= at line {node.lineno}"
            if isinstance(node.func, ast.Attribute):
                name = node.func.attr
                in_place = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
                assert not in_place, f"{name} at line {node.lineno}"
        for target in written_over(node):
            base = target.value if isinstance(target, ast.Subscript) else target
            assert not (isinstance(base, ast.Name) and SHAPED.match(base.id)), f"{base.id} at line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_every_file_says_its_job(path: Path):
    says = ast.get_docstring(tree(path))
    assert says, "a file opens with its one job"
    if path.name != "__init__.py":
        assert len(re.findall(r"[.:!?](\s|$)", says)) >= 2, "its one job, and what it does not know"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_only_apps_read_argv_the_environment_or_a_socket(path: Path):
    # exceptions: the cache's folder, and what must be set before torch is loaded
    if "apps" in path.parts or path.name == "default_model.py" or path == SOURCE / "__init__.py":
        return
    code = path.read_text(encoding="utf-8")
    assert not re.search(r"\bos\.environ|\bos\.getenv|\bsys\.argv|^import socket|\bprint\(", code, re.MULTILINE)


def test_every_error_has_a_page_and_every_page_an_error():
    from cutaway.ground import errors

    names = {name for name, kind in vars(errors).items() if isinstance(kind, type)} - {"CutawayError"}
    pages = {page.stem for page in (ROOT / "docs" / "errors").glob("*.md")}
    assert names == pages
    for name in names:
        page = (ROOT / "docs" / "errors" / f"{name}.md").read_text(encoding="utf-8")
        assert all(part in page for part in ("## Symptom", "## Cause", "## Fix")), name


def test_the_vocabulary_is_the_one_that_the_code_has():
    from tests.rules.vocabulary import vocabulary

    written = (ROOT / "docs" / "vocabulary.md").read_text(encoding="utf-8")
    assert written == vocabulary(), "run: python -m tests.rules.vocabulary > docs/vocabulary.md"


def test_the_settings_are_those_that_the_code_has():
    from tests.rules.settings import page

    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == page(), "run: python -m tests.rules.settings > docs/settings.md"


def test_the_site_has_every_public_name():
    import cutaway

    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert all(re.search(rf"^\.\. auto\w+:: {name}$", page, re.MULTILINE) for name in cutaway.__all__)
    analyses = (ROOT / "docs" / "analyses.md").read_text(encoding="utf-8")
    questions = [
        path.stem for path in (SOURCE / "analysis").glob("*.py") if "?" in path.read_text("utf-8").split("\n")[0]
    ]
    assert [each for each in questions if f"automodule:: cutaway.analysis.{each}\n" not in analyses] == []


def test_the_readme_is_short_and_says_the_floors():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) - len(section().splitlines()) <= 260
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ][0]
    assert f"`{' → '.join(contract['layers'])}`" in " ".join(text.split())
    listed = set(re.findall(r"[├└]─ (.*?)  ", text)) - {""}
    names = {name for each in listed for name in each.split(", ")}
    there = {f"{path.name}/" if path.is_dir() else path.name for path in SOURCE.iterdir() if path.suffix in ("", ".py")}
    assert names == there - {"__init__.py", "__pycache__/"}
    assert [verb for verb in VERBS if not re.search(rf"`cutaway {verb}[ `]", text)] == []


def test_every_file_that_a_page_links_to_is_there():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_table_of_model_types_is_what_the_tests_prove():
    text = README.read_text(encoding="utf-8")
    assert text == written(text), "run: python -m tests.rules.model_types"


def test_the_vocabulary_has_every_family_with_its_own_nonlinearity():
    from cutaway.weights.families import supported
    from tests.rules.vocabulary import KINDS, config_of, others, vocabulary

    assert {config["model_type"] for config in KINDS.values()} | set(others()) == set(supported())
    parts = dict(zip(KINDS, vocabulary().split("### ")[1:], strict=False))
    own = {"opt": "relu", "gpt2": "gelu_tanh", "llama": "silu"}
    for kind, part in parts.items():
        assert f"`{own[str(KINDS[kind]['model_type'])]}(mlp.pre)" in part, kind
        assert config_of(kind).activation in own.values()
