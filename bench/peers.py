"""Claim: every engine that cutaway is measured against can be had with pip, in a venv of its own that this makes.

Run by itself it makes them all and says what is in them. A venv that is whole is used again; one that cannot be made
says why, and the benches show that in the engine's row. Builds take minutes; nothing is installed outside the venvs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from measure import report

WHOLE = "cutaway-peer.json"  # written last: what was asked for, and what came
TORCH = "torch>=2.11,<2.14"  # beside every package that wants torch, so that pip takes the build of our own
DEFAULT = Path(tempfile.gettempdir()) / "cutaway-peers"


class Missing(Exception):
    """A peer that cannot be used here, and why."""


@dataclass(frozen=True)
class Peer:
    """What pip is to install. shown: the packages whose versions a result names. build: the environment of pip.

    without: what came along and does not go with torch's build for the CPU; it is taken out again.
    """

    packages: tuple[str, ...]
    shown: tuple[str, ...]
    options: tuple[str, ...] = ()
    build: tuple[tuple[str, str], ...] = ()
    without: tuple[str, ...] = ()


PEERS = {
    "bitsandbytes": Peer(
        (TORCH, "transformers", "bitsandbytes", "accelerate"), ("torch", "transformers", "bitsandbytes")
    ),
    "ctranslate2": Peer((TORCH, "transformers", "ctranslate2"), ("ctranslate2", "transformers")),
    "openvino": Peer(
        (TORCH, "openvino", "nncf", "optimum-intel[openvino]"),
        ("openvino", "optimum-intel", "nncf"),
        without=("torchvision",),
    ),
    "transformer_lens": Peer((TORCH, "transformer-lens>=4,<5"), ("torch", "transformers", "transformer-lens")),
    "nnsight": Peer((TORCH, "nnsight>=0.8,<0.9", "accelerate"), ("torch", "transformers", "nnsight")),
    # from source, for the instructions of this processor: the wheel's are the least that all have
    "llama_cpp": Peer(
        ("llama-cpp-python", "numpy"),
        ("llama-cpp-python",),
        ("--no-binary", "llama-cpp-python", "--no-cache-dir"),  # pip keeps builds whatever CMAKE_ARGS were
        (("CMAKE_ARGS", "-DGGML_NATIVE=ON"), ("CMAKE_BUILD_PARALLEL_LEVEL", "2")),
    ),
}
PEERS["llama_cpp_avx2"] = replace(
    PEERS["llama_cpp"],
    build=(
        ("CMAKE_ARGS", "-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON"),
        ("CMAKE_BUILD_PARALLEL_LEVEL", "2"),
    ),
)


def python_of(name: str, venvs: Path = DEFAULT) -> Path:
    """The Python of a peer's venv, made if it is not there. Raises Missing where pip could not make it."""
    peer, folder = PEERS[name], venvs / name
    python = folder / "bin" / "python"
    if _record(folder).get("packages") == list(peer.packages):
        return python
    print(f"making the venv of {name} in {folder}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--upgrade", "pip"])
    command = ["nice", "-n", "19", str(python), "-m", "pip", "install", "--no-input", *peer.options, *peer.packages]
    _run(command, dict(peer.build))
    if peer.without:
        _run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *peer.without])
    (folder / WHOLE).write_text(json.dumps({"packages": peer.packages, "versions": _versions(python, peer.shown)}))
    return python


def versions_of(name: str, venvs: Path = DEFAULT) -> dict[str, str]:
    """Versions of what a result names, of a venv that is there."""
    return _record(venvs / name).get("versions", {})


def _record(folder: Path) -> dict:
    try:
        return json.loads((folder / WHOLE).read_text())
    except (OSError, ValueError):
        return {}


def _versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    code = "import sys, json; from importlib.metadata import version"
    code += "; print(json.dumps({package: version(package) for package in sys.argv[1:]}))"
    done = subprocess.run([str(python), "-c", code, *packages], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def _run(command: Sequence[str], extra: dict[str, str] | None = None) -> None:
    """Run it, or raise Missing with the last error that it printed."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, check=False, text=True, env=os.environ | (extra or {}), **pipes)
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines or ["no word"]
        raise Missing(f"pip could not make it: {errors[-1][:200]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venvs", type=Path, default=DEFAULT, help="the folder of the venvs")
    venvs = parser.parse_args().venvs
    rows = []
    for name, peer in PEERS.items():
        try:
            python_of(name, venvs)
            came = ", ".join(f"{package} {number}" for package, number in versions_of(name, venvs).items())
            rows.append([name, came, "yes"])
        except Missing as missing:
            rows.append([name, str(missing), "NO"])
        rows[-1].insert(1, f"`pip install {' '.join([*peer.options, *peer.packages])}`")
    report("peers", "The engines that cutaway is measured against", ["peer", "asked for", "came", "there"], rows)


if __name__ == "__main__":
    main()
