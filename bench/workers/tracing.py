"""What the workers of bench/trace.py share: seconds of named things, asked for by lines of JSON.

It runs in the venvs of the peers, so it needs nothing but the standard library, and it knows no engine.
"""

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serve import answer

Things = dict[str, Callable[[list[int], int], Any]]  # name → what to do with a prompt and so many new tokens


def memory(field: str) -> int:
    """Bytes of this process, by the name that /proc gives them: VmRSS now, VmHWM at most."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines[field].split()[0]) * 1024


def serve(things: Things, *, settings: str, runs_on: str) -> None:
    """Tell what can be done, then do what is asked: {"do", "prompt", "new"} → {"seconds"}, after one uncounted run."""
    answer({"settings": settings, "versions": runs_on, "can": list(things)})
    for line in sys.stdin:
        asked = json.loads(line)
        seconds = []
        for _ in range(1 + asked.get("runs", 1)):
            gc.collect()
            start = time.perf_counter()
            kept = things[asked["do"]](asked["prompt"], asked["new"])
            seconds.append(time.perf_counter() - start)
            del kept
        answer({"seconds": min(seconds[1:]), "rss": memory("VmRSS"), "peak": memory("VmHWM")})
