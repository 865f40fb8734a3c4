"""The tests' core on the oldest and on the newest versions that pyproject.toml allows, each in its own environment.

By hand (`make versions`): gigabytes are fetched. It does not know what the tests test.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "bench" / "results" / "versions.md"
CORE = ("analysis", "lm", "parity", "quant", "sample", "show", "text", "trace", "weights", "world", "apps")
NEEDED = ("pytest", "pytest-xdist", "hypothesis", "beartype", "accelerate", "bitsandbytes")
SHOWN = ("torch", "transformers", "tokenizers", "numpy", "safetensors", "huggingface_hub", "gguf")
TITLE = "# The tests' core on the oldest and the newest versions\n\nWritten by `make versions`; a row is kept until its"
TITLE += " run is made again. Oldest: what pyproject.toml names as the least; newest: what pip takes on that day.\n\n"
PYTHONS = {"oldest": (11,), "newest": (14, 13)}  # the first that is found


def main(wanted: list[str]) -> int:
    """Run the kinds given, both where none is; 1 where a test failed."""
    return max(run(kind) for kind in wanted or PYTHONS)


def run(kind: str) -> int:
    python = interpreter(PYTHONS[kind])
    if python is None:
        write(f"{kind}, Python 3.{PYTHONS[kind][0]}", ["not to be had on this machine", *[""] * 3])
        return 1
    version = output(python, "-c", "import platform; print(platform.python_version())")
    env = ROOT / ".versions" / f"{kind}-{version}"
    if not env.exists():
        subprocess.run([python, "-m", "venv", env], check=True)
    inside = str(env / "bin" / "python")
    pip = [inside, "-m", "pip", "install", "--quiet"]
    # the newest is the newest: no constraint of the machine's own
    free = os.environ | {"PIP_CONSTRAINT": os.devnull}
    subprocess.run([*pip, "--upgrade", "pip>=25.1"], check=True, env=free)
    upgrade = ["--upgrade"] if kind == "newest" else []
    subprocess.run([*pip, *upgrade, *NEEDED, *dependencies(kind)], check=True, env=free)
    subprocess.run([*pip, "--no-deps", "--force-reinstall", str(ROOT)], check=True, env=free)
    tests = [inside, "-m", "pytest", "-m", "not real", "-n", str(os.cpu_count()), "--dist", "loadgroup"]
    folders = [f"tests/{name}" for name in CORE]
    done = subprocess.run(
        [*tests, *folders], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    print(done.stdout[-6000:], done.stderr[-2000:])
    closing = (done.stdout.strip() or "no test ran").splitlines()[-1].strip("= ")
    ask = f"from importlib.metadata import version; print(*(n + ' ' + version(n) for n in {SHOWN!r}), sep=', ')"
    engine = output(inside, "-c", "from cutaway.quant import native; print(native.engine())")
    write(f"{kind}, Python {version}", [output(inside, "-c", ask), closing, engine, date.today().isoformat()])
    return int(done.returncode != 0)


def interpreter(minors: tuple[int, ...]) -> str | None:
    """A Python of one of these versions that starts."""
    for minor in minors:
        name = f"python3.{minor}"
        places = [shutil.which(name), *map(str, Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/{name}"))]
        for place in filter(None, places):
            if subprocess.run([place, "--version"], capture_output=True).returncode == 0:
                return place
    return None


def dependencies(kind: str) -> list[str]:
    """Those of pyproject.toml as they stand, or at the least version that each names."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    if kind == "newest":
        return named
    least = (re.fullmatch(r"([\w-]+)>=([\d.]+).*", each) for each in named)
    return [f"{m[1]}=={m[2] if '.' in m[2] else m[2] + '.0'}.*" for m in least if m]


def write(name: str, cells: list[str]) -> None:
    """Put the row in its place in the table."""
    rows = {}
    if RESULT.is_file():
        lines = [line for line in RESULT.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][2:]
        rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines}
    rows[name] = f"| {name} | {' | '.join(cells)} |"
    head = "| run | versions | tests | 8-bit layers run on | date |\n| --- | --- | --- | --- | --- |\n"
    RESULT.write_text(TITLE + head + "\n".join(rows.values()) + "\n", encoding="utf-8")


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
