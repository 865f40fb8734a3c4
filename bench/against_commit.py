"""Claim: a change makes nothing slower. This tree and another commit, side by side.

The commit is checked out and built once, in the system's temporary folder; each tree runs in a process of its own, one
at a time. A ratio is the median over the rounds of one time over the other of the same round. It does not know what a
tree looks like inside: bench/workers/trace_cutaway.py does.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from contest import OPT, SMALL
from engines import Engine
from models import Models
from peers import Missing

from measure import report, spread

ROOT = Path(__file__).parents[1]
CHECKOUTS = Path(tempfile.gettempdir()) / "cutaway-commits"
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}  # of torch
HEADER = ["model", "mode", "what", "ours", "theirs", "ours / theirs"]
SIDES = ("ours", "theirs")
TOKEN, RECORDED = "a token", "a token, recorded"
PROMPTS = {f"prompt of {length}": ("generate", length, 1) for length in (128, 512, 1024)}
DECODE = {TOKEN: ("generate", 16, 64)}
EVERY = DECODE | {RECORDED: ("generate, recorded", 16, 64)} | PROMPTS | {"full trace of 512": ("trace", 512, 1)}
# (model, mode) → row → what the worker does, ids of the prompt, new tokens
JOBS = {(SMALL, None): DECODE | PROMPTS, (SMALL, "llm-int8"): EVERY, (OPT, "llm-int8"): EVERY, (SMALL, "int8"): EVERY}
Seconds = dict[str, dict[str, list[float]]]  # side → row → one a round


def checkout(commit: str) -> Path:
    """A folder with that commit and its native library, made at its first use. Raises Missing where that fails."""
    sha = output("git", "rev-parse", "--verify", f"{commit}^{{commit}}")
    folder = CHECKOUTS / f"{sha[:12]}-{sys.implementation.cache_tag}"
    if not folder.exists():
        print(f"making {folder}", flush=True)
        CHECKOUTS.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CHECKOUTS) as temporary:
            part, archive = Path(temporary) / "tree", str(Path(temporary) / "tree.tar")
            part.mkdir()
            output("git", "archive", "--output", archive, sha)
            output("tar", "-x", "-f", archive, "-C", str(part))
            build(part)
            part.rename(folder)
    return folder


def build(tree: Path) -> None:
    """Build the tree's native library in its place, unless it is newer than its sources."""
    output(sys.executable, "setup.py", "build_ext", "--inplace", cwd=tree)
    if not list((tree / "src").rglob("_native.*.so")):
        raise Missing(f"no native library could be built in {tree}")


def output(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        raise Missing(f"{' '.join(command)}: {(done.stderr.strip() or 'no word').splitlines()[-1]}")
    return done.stdout.strip()


def measured(
    models: Models, trees: list[Path], model: str, mode: str | None, jobs: dict, given: argparse.Namespace
) -> tuple[Seconds, str]:
    """Seconds of each job in each tree, interleaved; and what the trees ran on."""
    path, seconds = (
        models.opt() if model == OPT else models.small(),
        {side: {row: [] for row in jobs} for side in SIDES},
    )
    with ExitStack() as stack:
        engines = {}
        for side, tree in zip(SIDES, trees, strict=True):
            print(f"{model}, {mode}: starting {side}", flush=True)
            task = json.dumps({"source": str(tree / "src"), "mode": mode, "isa": given.isa})
            engines[side] = Engine(models.own(), "trace_cutaway", path, given.threads, task)
            stack.callback(engines[side].close)
        for count in range(given.rounds):
            print(f"{model}, {mode}: round {count + 1} of {given.rounds}", flush=True)
            for row, (do, length, new) in jobs.items():
                for side in SIDES[:: 1 if count % 2 else -1]:
                    answer = engines[side].ask({"do": do, "prompt": models.ids(length), "new": new})
                    seconds[side][row].append(answer["each"] or answer["seconds"])
    return seconds, "; ".join(f"{side} {engine.facts['settings']}" for side, engine in engines.items())


def ratio(above: list[float], below: list[float]) -> str:
    return f"{statistics.median(a / b for a, b in zip(above, below, strict=True)):.3f}"


def rows(model: str, mode: str | None, seconds: Seconds, full: Seconds | None) -> list[list[str]]:
    """One row a job; then, of each tree, what recording costs, and 8 bits over its own float32 (`full`)."""
    table = []
    for row in seconds["ours"]:
        times = [seconds[side][row] for side in SIDES]
        table.append([model, str(mode), row, *(spread([1e3 * t for t in some], "ms") for some in times), ratio(*times)])
    pairs = [(f"{RECORDED} / not recorded", RECORDED, TOKEN, seconds)]
    pairs += [(f"{row}, {mode} / float32", row, row, full) for row in DECODE | PROMPTS if full and full is not seconds]
    for what, above, below, other in pairs:
        if above in seconds["ours"] and below in other["ours"]:
            cells = [ratio(seconds[side][above], other[side][below]) for side in SIDES]
            table.append([model, str(mode), what, *cells, ""])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", help="the other commit, as git names it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--isa", choices=("avx2",), help="run these instructions, torch too, where the machine has more"
    )
    parser.add_argument("--only", default="", help="rows whose 'model, mode, row' has this in it; write no result")
    given = parser.parse_args()
    os.environ.update(AVX2 if given.isa else {})
    models, found, table = Models(), {}, []
    notes = [f"Ours: {output('git', 'describe', '--always', '--dirty')}. {given.threads} threads, {given.rounds} "
             "interleaved rounds, medians (least to most). A token: from one to the next of 64 after 16; recorded: "
             "every site but scores and patterns. In trees without quant/formats.py int8 is LLM.int8()."]  # fmt: skip
    try:
        build(ROOT)
        trees = [ROOT, checkout(given.commit)]
        for (model, mode), every in JOBS.items():
            if jobs := {row: job for row, job in every.items() if given.only in f"{model}, {mode}, {row}"}:
                found[model, mode], ran = measured(models, trees, model, mode, jobs, given)
                notes.append(f"{model}, {mode}: {ran}.")
                table += rows(model, mode, found[model, mode], found.get((model, None)))
    except Missing as missing:
        sys.exit(str(missing))
    name = "against_commit" + (f"_{given.isa}" if given.isa else "")
    report(name, f"This tree against {given.commit}", HEADER, table, "\n\n".join(notes), keep=not given.only)


if __name__ == "__main__":
    main()
