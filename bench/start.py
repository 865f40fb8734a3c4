"""Claim: `cutaway --help` answers in under 0.3 s, the whole tour of the default model in under 15 s (warm cache)."""

import statistics
import sys
from pathlib import Path

from measure import report, seconds, spread

CUTAWAY = str(Path(sys.executable).with_name("cutaway"))


def main() -> None:
    rows = []
    for command, limit in ((["--help"], 0.3), (["tour"], 15.0)):
        times = seconds([CUTAWAY, *command], runs=5, warm=1)
        holds = "yes" if statistics.median(times) < limit else "NO"
        rows.append([f"`cutaway {' '.join(command)}`", spread(times), f"{limit} s", holds])
    report("start", "Time of a whole command, median of five", ["command", "wall time", "limit", "holds"], rows)


if __name__ == "__main__":
    main()
