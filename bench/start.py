"""Claim: `cutaway generate` writes its first token in under 1.2 s, and in at most half of an earlier commit's time.

`cutaway --help` answers in under 0.3 s, the tour in under 15 s. The default model, warm caches, every run a process of
its own, the two trees in turn. It does not know why a tree takes its time: `python -X importtime` does.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from against_commit import ROOT, build, checkout, output
from peers import Missing

from measure import report, spread

COMMIT = "1e23ea7"
PROMPT = "The sun rises in the"
MAIN = "import sys; from cutaway.apps.cli.main import main; sys.exit(main())"
HELP, FIRST, TOUR, TORCH = (
    "`cutaway --help`",
    "`cutaway generate`: first token",
    "`cutaway tour`",
    "`import torch` alone",
)
COMMANDS = {
    HELP: ["-c", MAIN, "--help"],
    TOUR: ["-c", MAIN, "tour"],
    TORCH: ["-c", "import torch; print('', flush=True)"],
}
COMMANDS[FIRST] = ["-c", MAIN, "generate", PROMPT, "--max-new-tokens", "1"]
LIMITS = {HELP: 0.3, FIRST: 1.2, TOUR: 15.0}  # seconds


def prepared(tree: Path, cache: Path) -> dict[str, str]:
    """The environment of a plain shell in which `cutaway` is that tree's, with a cache of its own for the model.

    The tree is compiled to bytecode, as pip does when it installs.
    """
    output(sys.executable, "-m", "compileall", "-q", str(tree / "src"))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return plain | {"PYTHONPATH": str(tree / "src"), "CUTAWAY_CACHE": str(cache)}


def until_output(arguments: Sequence[str], environment: dict[str, str], more_than: int) -> float:
    """Seconds from the start of a process until it has written more than so many bytes. Raises where it fails."""
    start, got = time.perf_counter(), 0
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        while got <= more_than and (part := os.read(process.stdout.fileno(), 1 << 16)):
            got += len(part)
        seconds = time.perf_counter() - start
        process.stdout.read()
    if process.returncode or got <= more_than:
        raise Missing(f"{' '.join(arguments)} ended with code {process.returncode} after {got} bytes")
    return seconds


def measured(row: str, environment: dict[str, str]) -> float:
    """Seconds of one run: until the last byte, or until the first after the prompt."""
    if row in (FIRST, TORCH):
        return until_output(COMMANDS[row], environment, len(PROMPT) if row == FIRST else 0)
    start = time.perf_counter()
    subprocess.run([sys.executable, *COMMANDS[row]], check=True, capture_output=True, env=environment)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", nargs="?", default=COMMIT, help="the other commit, as git names it")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    table = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            build(ROOT)
            trees = {"ours": ROOT, "theirs": checkout(given.commit)}
            environments = {side: prepared(tree, Path(folder) / side) for side, tree in trees.items()}
            for row in (HELP, FIRST, TORCH, TOUR):
                sides = ["ours"] if row in (TORCH, TOUR) else list(trees)
                for side in sides:
                    measured(row, environments[side])  # warm: the model fetched, the page cache
                times = {side: [] for side in sides}
                for count in range(3 if row == TOUR else given.rounds):
                    for side in sides[:: 1 if count % 2 else -1]:
                        times[side].append(measured(row, environments[side]))
                table.append(cells(row, **times))
        except Missing as missing:
            sys.exit(str(missing))
    notes = (
        f"Ours: {output('git', 'describe', '--always', '--dirty')}. {given.rounds} processes each, 3 of the tour, the "
        "trees in turn; median (least to most). First token: from the start of the process until the first byte after "
        "the prompt. The import of torch, which no start can do without, has a row of its own."
    )
    header = ["command", "ours", f"at {given.commit}", "ours / theirs", "limit", "holds"]
    report("start", "Time until a command answers", header, table, notes)


def cells(row: str, ours: list[float], theirs: Sequence[float] = ()) -> list[str]:
    limit, median = LIMITS.get(row), statistics.median(ours)
    ratio = f"{statistics.median(a / b for a, b in zip(ours, theirs, strict=True)):.2f}" if theirs else ""
    holds = "" if limit is None else "yes" if median < limit else "NO"
    return [row, spread(ours), spread(theirs) if theirs else "", ratio, f"{limit} s" if limit else "", holds]


if __name__ == "__main__":
    main()
