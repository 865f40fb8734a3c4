"""What an install holds, and the message on a native library that is missing, another version's, or damaged."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from cutaway.quant import native
from cutaway.quant.native import library

ROOT = Path(__file__).parents[2]
NAME = f"_native{EXTENSION_SUFFIXES[0]}"
BUILT = Path(library.__file__).with_name(NAME)
needs_library = pytest.mark.skipif(not native.available, reason=f"no native library: {native.MISSING}")


@pytest.mark.parametrize("name", ["torch", "numpy", "requires-python"])
def test_nobody_is_shut_out_by_an_upper_bound(name: str):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], f"requires-python{project['requires-python']}"]
    (bound,) = [each for each in wanted if re.match(rf"{name}\b", each)]
    assert re.fullmatch(rf"{name}>=[\d.]+", bound)


def test_make_setup_alone_is_held_to_a_version():
    assert "--constraint constraints.txt" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^torch<", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("compiler", [True, False], ids=["with a compiler", "without a compiler"])
def test_a_wheel_has_no_sources_and_its_install_says_which_path_runs(
    compiler: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if find_spec("setuptools") is None or int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip("no setuptools of the version that pyproject.toml asks for; pip brings its own")
    if not compiler:
        monkeypatch.setenv("CC", "false")
        monkeypatch.setenv("CXX", "false")
    elif shutil.which("c++") is None:
        pytest.skip("no C++ compiler on this machine")
    ours = shutil.ignore_patterns(".*", "*.so", "build", "*.egg-info", "tests", "bench", "docs")
    source = Path(shutil.copytree(ROOT, tmp_path / "source", ignore=ours))
    build = "from setuptools import build_meta as b; b.build_sdist('out'); b.build_wheel('out')"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=True)
    said = "native C++" if compiler else "torch, several times slower: no C++ compiler with OpenMP was found"
    assert f"cutaway: 8-bit layers will run on {said}\n" in done.stderr
    with zipfile.ZipFile(next((source / "out").glob("*.whl"))) as wheel:
        inside = [Path(name) for name in wheel.namelist()]
    assert not [path for path in inside if path.suffix in (".cpp", ".h")]
    assert [path.name for path in inside if path.suffix == ".so"] == ([NAME] if compiler else [])
    with tarfile.open(next((source / "out").glob("*.tar.gz"))) as sdist:
        packed = {Path(name).name for name in sdist.getnames()}
    sources = {path.name for path in (ROOT / "src/cutaway/quant/native/cpp").iterdir() if path.suffix in (".cpp", ".h")}
    assert {"linear.cpp", "isa.h"} <= sources <= packed


def test_no_library_is_said(tmp_path: Path):
    assert library.load_library(tmp_path) == (None, "not built: the install found no C++ compiler with OpenMP")


def test_a_library_of_another_python_is_said(tmp_path: Path):
    (tmp_path / "_native.cpython-27-x86_64-linux-gnu.so").write_bytes(b"")
    found = "built for another Python (_native.cpython-27-x86_64-linux-gnu.so); install cutaway again with this one"
    assert library.load_library(tmp_path) == (None, found)


@needs_library
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_library_that_ends_too_early_is_said(part: float, tmp_path: Path):
    whole = BUILT.read_bytes()
    (tmp_path / NAME).write_bytes(whole[: int(len(whole) * part)])
    loaded, why = library.load_library(tmp_path)
    assert loaded is None
    assert re.fullmatch(r"not usable \(.*(too short|ends too early)\); install cutaway again", why)


def test_a_file_that_is_no_library_is_said(tmp_path: Path):
    (tmp_path / NAME).write_bytes(b"<html>not found</html>" * 100)
    loaded, why = library.load_library(tmp_path)
    assert loaded is None and re.fullmatch(r"not usable \(.*invalid ELF header\); install cutaway again", why)


@needs_library
def test_an_older_build_without_a_function_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copy(BUILT, tmp_path / NAME)
    monkeypatch.setitem(library.SIGNATURES, "cutaway_of_tomorrow", ([], None))
    loaded, why = library.load_library(tmp_path)
    assert loaded is None and "undefined symbol: cutaway_of_tomorrow); install cutaway again" in why


def test_who_computes_is_said_in_words(monkeypatch: pytest.MonkeyPatch):
    if native.available:
        words = {"avx512-vnni": "native C++ with AVX-512 VNNI", "avx2": "native C++ with AVX2"}
        assert native.engine() == words.get(native.isa(), "portable native C++")
        native.use_isa("portable")
        try:
            assert native.engine() == "portable native C++"
        finally:
            native.use_isa(None)
    monkeypatch.setattr(library, "LIBRARY", None)
    monkeypatch.setattr(library, "MISSING", "not built: the install found no C++ compiler with OpenMP")
    expected = "torch, as the native library is not built: the install found no C++ compiler with OpenMP"
    assert native.engine() == expected
