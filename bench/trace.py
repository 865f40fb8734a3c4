"""Claim: to see every value costs little: in generation, at a whole prompt, and in memory.

Recording every site but scores and patterns while 48 tokens are written, against writing them unrecorded in the same
round (asked: at most 5 % more a token); a full trace of a 512-token prompt in 8 bits, against the fastest peer's plain
pass over it (asked: less time). Memory after 20 and after 200 traces, and the peak of one over its plan (asked: within
10 %).
"""

import argparse
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from engines import Engine
from models import Models
from peers import Missing

from measure import in_a_process, report, spread

HEADER = ["model", "engine", "what", "took", "asked", "holds"]
LONG, SHORT, NEW = 512, 16, 48
PEER_ROUNDS = 3  # hooks in float32 take a minute a round on the larger model
OPT, SMALL, OURS = "opt-1.3b's shape", "SmolLM2-135M", "cutaway int8"
MEMORY = """
import sys, torch, cutaway
def now(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))
lm = cutaway.load(sys.argv[1], device="cpu")
ids, short = torch.arange(100, 612)[None], torch.arange(100, 164)[None]
for _ in range(20):
    lm.trace(short)
early = now("VmRSS")
for _ in range(180):
    lm.trace(short)
late = now("VmRSS")
lm.logits(ids)
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = now("VmRSS")
plan = lm.plan(ids).bytes
trace = lm.trace(ids)
result = {"early": early, "late": late, "plan": plan, "took": now("VmHWM") - before}
"""


def entrants(models: Models, model: str) -> dict[str, tuple[str, Callable[[], Path], Callable[[], Path], str]]:
    """name → worker, whose Python, the model's path, what stands after the threads on its command line."""
    whole, int8 = (models.opt, models.opt_int8) if model == OPT else (models.small, models.small_int8)
    table = {OURS: ("trace_cutaway", models.own, int8, "-")}
    for dtype in ("bfloat16", "float32"):
        theirs = lambda: models.peer("bitsandbytes")  # noqa: E731
        table[f"transformers' hooks, {dtype}"] = ("trace_hooks", theirs, whole, dtype)
    if model == SMALL:  # the stand-in has no tokenizer, which both want
        table["TransformerLens's bridge"] = (
            "trace_transformer_lens", lambda: models.peer("transformer_lens"), whole, "-",
        )  # fmt: skip
        table["nnsight"] = ("trace_nnsight", lambda: models.peer("nnsight"), whole, "-")
    return table


def measured(
    models: Models, model: str, rounds: int, threads: int
) -> tuple[dict[str, dict[str, list[float]]], list[str]]:
    """Seconds by engine and by what was done, interleaved; and notes of what is missing or what ran."""
    seconds: dict[str, dict[str, list[float]]] = {}
    notes = []
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for name, (worker, python, path, more) in entrants(models, model).items():
            try:
                print(f"starting {name}", flush=True)
                engines[name] = Engine(python(), worker, path(), threads, more)
                stack.callback(engines[name].close)
                notes.append(f"{name}: {engines[name].facts['versions']}, {engines[name].facts['settings']}")
            except Missing as missing:
                notes.append(f"{name}: {missing}")
        for count in range(rounds):
            print(f"{model}: round {count + 1} of {rounds}", flush=True)
            for name, engine in engines.items():
                if name != OURS and count >= PEER_ROUNDS:
                    continue
                for what in engine.facts["can"]:
                    length = SHORT if what.startswith("generate") else LONG
                    request: dict[str, Any] = {"do": what, "prompt": models.ids(length), "new": NEW}
                    answer = engine.ask(request)
                    seconds.setdefault(name, {}).setdefault(what, []).append(answer["seconds"])
                    if answer["each"]:
                        seconds[name].setdefault(f"{what}: a token", []).append(answer["each"])
    return seconds, notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=(OPT, SMALL), help="one model; print, and write no result")
    given = parser.parse_args()
    models, rows, notes = Models(), [], []
    how = f"{given.threads} threads, {given.rounds} interleaved rounds, the first {PEER_ROUNDS} with the others, "
    how += f"medians (least to most). A pass and a trace read {LONG} tokens, generation {SHORT} and writes {NEW}. "
    how += "Hooks keep what each module returns; nnsight the queries, keys, values, attention and MLP outputs and the "
    how += "stream of each block; the bridge all it names."
    for model in (SMALL, OPT) if given.only is None else (given.only,):
        seconds, said = measured(models, model, given.rounds, given.threads)
        notes += [f"{model}: " + "; ".join(said) + "."]
        for name, by in seconds.items():
            for what, times in by.items():
                rows.append([model, name, what, spread([t * 1e3 for t in times], "ms"), "", ""])
        ours = {what: statistics.median(times) for what, times in seconds[OURS].items()}
        by = seconds[OURS]
        for per, what, asked in ((": a token", "a token", "at most 5 %"), ("", "with all before and after", "")):
            pairs = zip(by[f"generate, recorded{per}"], by[f"generate{per}"], strict=True)
            cost = statistics.median(recorded / plain for recorded, plain in pairs) - 1
            rows.append([model, OURS, f"cost of recording while it writes, {what}", f"{cost:+.1%}", asked,
                         ("yes" if cost <= 0.05 else "NO") if asked else ""])  # fmt: skip
        peers = {name: statistics.median(by["pass"]) for name, by in seconds.items() if name != OURS}
        fastest = min(peers, key=lambda name: peers[name])
        ratio = ours["trace"] / peers[fastest]
        rows.append([model, OURS, f"full trace over the plain pass of {fastest}", f"{ratio:.2f} ×",
                     "under 1 ×", "yes" if ratio < 1 else "NO"])  # fmt: skip
        memory = in_a_process(MEMORY, str(models.opt_int8() if model == OPT else models.small_int8()))
        grown = memory["late"] - memory["early"]
        rows.append([model, OURS, "RSS after 200 traces over that after 20", f"{grown / 1e6:+.1f} MB",
                     "no growth", "yes" if grown < 16e6 else "NO"])  # fmt: skip
        over = memory["took"] / memory["plan"] - 1
        rows.append([model, OURS, f"peak of a trace of {memory['plan'] / 1e9:.2f} GB over its plan",
                     f"{over:+.1%}", "within 10 %", "yes" if abs(over) <= 0.10 else "NO"])  # fmt: skip
        # after each model, so that a run that is stopped keeps what it measured
        report("trace", "What seeing costs", HEADER, rows, "\n\n".join([how, *notes]), keep=given.only is None)


if __name__ == "__main__":
    main()
