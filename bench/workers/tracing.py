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


class Written:
    """What a generation gave, and the median of the seconds from a token to the next."""

    def __init__(self, kept: Any, each: float) -> None:
        self.kept, self.each = kept, each


Things = dict[str, Callable[[list[int], int], Any]]  # name → what to do with a prompt and so many new tokens


def memory(field: str) -> int:
    """Bytes of this process, by the name that /proc gives them: VmRSS now, VmHWM at most."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines[field].split()[0]) * 1024


def serve(things: Things, *, settings: str, runs_on: str) -> None:
    """Tell what can be done, then do what is asked: {"do", "prompt", "new"} → {"seconds", "each"}, after one uncounted
    run. each: of what tells it (Written)."""
    answer({"settings": settings, "versions": runs_on, "can": list(things)})
    for line in sys.stdin:
        asked = json.loads(line)
        seconds, each = [], 0.0
        for _ in range(1 + asked.get("runs", 1)):
            gc.collect()
            start = time.perf_counter()
            kept = things[asked["do"]](asked["prompt"], asked["new"])
            seconds.append(time.perf_counter() - start)
            each = kept.each if isinstance(kept, Written) else 0.0
            del kept
        answer({"seconds": min(seconds[1:]), "each": each, "rss": memory("VmRSS"), "peak": memory("VmHWM")})
