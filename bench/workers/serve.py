"""What every worker shares: a line of JSON in, a line of JSON out, until the input ends; and the choice of settings.

It runs in the venvs of the peers, so it needs nothing but the standard library, and it knows no engine.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from typing import Any

Each = Callable[[int], None]  # called with every new id, as soon as it is known
Decode = Callable[[list[int], int, Each], None]  # prompt, how many new tokens, each

ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what the libraries print must not stand among the answers


def arguments() -> tuple[str, int, str]:
    """The model's path, the threads, and what will be measured: "decode" or "prefill"."""
    return sys.argv[1], int(sys.argv[2]), sys.argv[3]


def timed(decode: Decode, prompt: list[int], new: int) -> dict[str, Any]:
    """Seconds to the first new token, seconds between each and the next, and the ids."""
    ids: list[int] = []
    times = [time.perf_counter()]

    def each(token: int) -> None:
        times.append(time.perf_counter())
        ids.append(token)

    decode(prompt, new, each)
    assert len(ids) == new, f"{len(ids)} tokens instead of {new}"
    steps = [after - before for before, after in pairwise(times)]
    return {"first": steps[0], "each": steps[1:], "ids": ids}


def fastest(candidates: dict[str, Callable[[], Decode]]) -> tuple[str, Decode]:
    """The settings, by name, that do best what will be measured: each is loaded, tried shortly, and let go again."""
    prefill = arguments()[2] == "prefill"
    prompt, new = (list(range(100, 228)), 1) if prefill else (list(range(100, 116)), 9)
    chosen: tuple[str, Decode] | None = None
    least = float("inf")
    for name, load in candidates.items():
        decode = load()
        runs = [timed(decode, prompt, new) for _ in range(4)][1:]
        seconds = min(run["first"] if prefill else statistics.median(run["each"]) for run in runs)
        print(f"{name}: {seconds * 1e3:.1f} ms", file=sys.stderr)
        if seconds < least:
            chosen, least = (name, decode), seconds
    assert chosen is not None
    return chosen


def versions(*packages: str) -> str:
    """Names and versions of what runs here."""
    return ", ".join(f"{name} {version(name)}" for name in packages)


def answer(data: dict[str, Any]) -> None:
    """One line to whoever asked."""
    ANSWERS.write(json.dumps(data) + "\n")


def serve(decode: Decode, *, settings: str, nbytes: int, runs_on: str) -> None:
    """Tell that the model is loaded, then time every request. nbytes: of the weights that one token reads."""
    timed(decode, list(range(100, 116)), 4)  # what is made at the first use is no part of the measurement
    answer({"settings": settings, "nbytes": nbytes, "versions": runs_on})
    for line in sys.stdin:
        asked = json.loads(line)
        answer(timed(decode, asked["prompt"], asked["new"]))
