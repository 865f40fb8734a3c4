"""What the benches share: a command's time and memory from outside it, the machine's name, and the result's page.

Every run is a process of its own. Results are written to bench/results with date, machine and versions.
"""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def seconds(command: Sequence[str], runs: int = 5, warm: int = 1) -> list[float]:
    """Wall time of each run of a command, after `warm` uncounted ones. Raises where a run fails."""
    times = []
    for _ in range(warm + runs):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return times[warm:]


def in_a_process(code: str, *args: str) -> dict[str, float]:
    """What a piece of Python, run in a process of its own, prints last as JSON, with the peak and anonymous RSS
    of that process at its end (bytes; Linux)."""
    tail = """
def _memory():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    names = {"peak_rss": "VmHWM", "anonymous_rss": "RssAnon"}
    return {key: int(lines[name].split()[0]) * 1024 for key, name in names.items()}
import json as _json
print(_json.dumps(result | _memory()))
"""
    done = subprocess.run([sys.executable, "-c", code + tail, *args], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> str:
    """Processor, cores and system, as far as the machine says."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?")
    cores = sum(line.startswith("processor") for line in lines)
    return f"{cpu}, {cores} cores, {platform.system()} {platform.machine()}"


def report(
    name: str, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], notes: str = "", keep: bool = True
) -> None:
    """Print one table and, if it is to be kept, write it to bench/results/NAME.md."""
    lines = [f"# {title}", "", f"{datetime.now(UTC):%Y-%m-%d} · {machine()} · Python {platform.python_version()}"]
    lines[-1] += " · " + ", ".join(f"{p} {version(p)}" for p in ("torch", "transformers"))
    lines += ["", "| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    lines += ["| " + " | ".join(row) + " |" for row in rows] + (["", notes] if notes else [])
    text = "\n".join(lines) + "\n"
    print(text)
    if not keep:
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")


def spread(values: Sequence[float], unit: str = "s") -> str:
    """median (least to most)."""
    return f"{statistics.median(values):.2f} {unit} ({min(values):.2f} to {max(values):.2f})"
