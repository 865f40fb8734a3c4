"""Engines side by side: each a process that loads once, decodes when asked, and is stopped while others run.

A round asks every engine once, so that what the machine does meanwhile meets all of them; the rounds' medians count.
It does not know what an engine is, only the worker (bench/workers) that stands for it.
"""

import json
import os
import signal
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers import Missing

WORKERS = Path(__file__).parent / "workers"
# What holds oneDNN, and so OpenVINO's matrix products, to an instruction set; OpenVINO's other kernels from a later
# version on, too.
CAPS = {"avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "OV_CPU_MAX_ISA": "AVX2"}}


@dataclass(frozen=True)
class Entrant:
    """One engine on one model.

    python: whose venv runs the worker, or raises Missing. model: makes the model's path, once. isa: the instruction set
    that it is to run, where the machine has more: cutaway is told, others have the environment of CAPS, if not a venv
    of their own.
    """

    name: str
    worker: str
    python: Callable[[], Path]
    model: Callable[[], Path]
    isa: str = ""


@dataclass
class Result:
    """What an entrant did: what it said of itself, and its answers, one a round; or why there are none."""

    entrant: Entrant
    facts: dict[str, Any] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)
    missing: str = ""

    def seconds(self, what: str) -> list[float]:
        """Of each round: the time to the first token ("first"), or the median from a token to the next ("each")."""
        if what == "first":
            return [answer["first"] for answer in self.answers]
        return [statistics.median(answer["each"]) for answer in self.answers]


class Engine:
    """A worker's process. It runs only while it is asked: idle threads of some engines spin."""

    def __init__(self, python: Path, worker: str, model: Path | str, threads: int, task: str, isa: str = "") -> None:
        task = f"{task} {isa}".strip() if worker == "cutaway_int8" else task
        command = [str(python), str(WORKERS / f"{worker}.py"), str(model), str(threads), task]
        self.worker = worker
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the process
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, bufsize=1,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)} | CAPS.get(isa, {}),
            process_group=0,  # no session: they share processors
        )  # fmt: skip
        try:
            self.facts = self._line()
        except BaseException:
            self.close()
            raise

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The worker's answer. Raises Missing where it ended instead."""
        os.killpg(self.process.pid, signal.SIGCONT)
        with suppress(BrokenPipeError):  # it has ended: _line tells why
            self.process.stdin.write(json.dumps(dict(request)) + "\n")
        return self._line()

    def close(self) -> None:
        """End the process, stopped or not."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        self.errors.close()

    def _line(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            said = [text.strip() for text in self.errors.read().splitlines() if text.strip()]
            raise Missing(f"{self.worker} ended with {self.process.returncode}: {said[-1] if said else 'no word'}")
        os.killpg(self.process.pid, signal.SIGSTOP)
        return json.loads(line)


def race(
    entrants: Sequence[Entrant], request: Mapping[str, Any], *, rounds: int, threads: int, task: str, python: Path
) -> tuple[list[Result], list[float]]:
    """Every entrant's result, and the bytes a second that this machine read in each round.

    request: the prompt's ids and how many new tokens. task: "decode" or "prefill", which the settings are chosen
    for. python: one with torch, for the bandwidth. An engine that cannot run says why in its result.
    """
    with ExitStack() as stack:
        reader = Engine(python, "bandwidth", "-", threads, task)
        stack.callback(reader.close)
        results, engines, bandwidth = [Result(entrant) for entrant in entrants], {}, []
        for place, result in enumerate(results):
            try:
                print(f"starting {result.entrant.name}", flush=True)
                entrant = result.entrant
                engines[place] = Engine(entrant.python(), entrant.worker, entrant.model(), threads, task, entrant.isa)
                stack.callback(engines[place].close)
                result.facts = engines[place].facts
            except Missing as missing:
                result.missing = str(missing)
        for _ in range(rounds):
            bandwidth.append(reader.ask({})["bandwidth"])
            for place, engine in engines.items():
                results[place].answers.append(engine.ask(request))
        return results, bandwidth
