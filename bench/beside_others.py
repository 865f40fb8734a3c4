"""Claim: beside busy processes decoding slows by little more than the share of the processors that it loses.

Zero, two and four processes that only count run beside two threads on two cores, while cutaway and llama.cpp decode in
turn. Speed is that of a whole text, stalls included; a slowdown compares the same engine in the same round.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from contest import yes
from engines import Engine, Entrant
from models import Models
from peers import Missing, versions_of

from measure import report, spread

BUSY = (0, 2, 4)
ALLOWED = 1.3  # times the slowdown that a fair share would bring
HEADER = ["engine", "instructions", "busy processes", "tokens/s", "slowdown", "fair share's", "asked", "holds"]


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that do nothing but use a processor, in this session: Linux shares processors by sessions."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measured(entrants: dict[str, tuple[Entrant, str]], prompt: list[int], given: argparse.Namespace):
    """Each engine's tokens a second, beside so many busy processes, one a round; and what it runs on."""
    speeds: dict[str, dict[int, list[float]]] = {name: {count: [] for count in BUSY} for name in entrants}
    with ExitStack() as stack:
        engines = {}
        for name, (entrant, task) in entrants.items():
            print(f"starting {name}", flush=True)
            engines[name] = Engine(entrant.python(), entrant.worker, entrant.model(), given.threads, task)
            stack.callback(engines[name].close)
        for count in BUSY * given.rounds:
            for name, engine in engines.items():
                with busy(count):
                    each = engine.ask({"prompt": prompt, "new": given.new})["each"]
                speeds[name][count].append(len(each) / sum(each))
                print(f"{name} beside {count}: {speeds[name][count][-1]:.1f} tokens/s", flush=True)
        return speeds, {name: engine.facts["settings"] for name, engine in engines.items()}


def rows(
    speeds: dict[str, dict[int, list[float]]], settings: dict[str, str], threads: int, cores: int, peer: str
) -> list[list[str]]:
    """One row an engine and load. Its slowdown is to be at most ALLOWED times the fair one, and the peer's."""
    slowdown = {
        (name, count): statistics.median(quiet / loaded for quiet, loaded in zip(every[0], every[count], strict=True))
        for name, every in speeds.items()
        for count in BUSY
    }
    table = []
    for name, every in speeds.items():
        for count in BUSY:
            fair = max(1.0, (threads + count) / cores)  # as threads are no more than cores
            row = [name, settings[name], str(count), spread(every[count], ""), "", "", "", ""]
            if count:
                asked = min(ALLOWED * fair, slowdown[peer, count])
                row[4:6] = [f"{slowdown[name, count]:.2f} ×", f"{fair:.2f} ×"]
                if name != peer:
                    row[6:] = [f"{asked:.2f} ×", yes(slowdown[name, count] <= asked)]
            table.append(row)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--new", type=int, default=48, help="tokens of a text")
    given = parser.parse_args()
    models, peer = Models(), "llama.cpp Q8_0"
    ours = Entrant("cutaway int8", "cutaway_int8", models.own, models.small_int8)
    theirs = Entrant(peer, "llama_cpp_q8_0", lambda: models.peer("llama_cpp"), models.small_q8_0)
    entrants = {
        "cutaway int8": (ours, "decode"),
        "cutaway int8, AVX2": (ours, "decode avx2"),
        peer: (theirs, "decode"),
    }
    cores = len(os.sched_getaffinity(0))
    try:
        speeds, settings = measured(entrants, models.ids(16), given)
    except Missing as missing:
        sys.exit(str(missing))
    settings[peer] += f", llama-cpp-python {versions_of('llama_cpp').get('llama-cpp-python', '?')} for this machine"
    how = (
        f"SmolLM2-135M, {given.threads} threads on {cores} cores, {given.new} tokens after 16, {given.rounds} "
        "interleaved rounds, medians (least to most). A slowdown is the median of quiet over loaded speed of the same "
        f"round; asked: the least of llama.cpp's own and {ALLOWED} × what a fair share of the processors brings."
    )
    table = rows(speeds, settings, given.threads, cores, peer)
    report("beside_others", "Decoding beside busy processes", HEADER, table, how)


if __name__ == "__main__":
    main()
