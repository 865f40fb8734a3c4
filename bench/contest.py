"""What decode.py and prefill.py share: who runs, the command line, and the rows of the table.

A ratio is the median over the rounds of peer's time / cutaway's time in the same round. It does not know how an
engine is asked (engines.py).
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engines import Entrant, Result, race
from load import DEFAULT as STAND_IN
from models import Models
from peers import DEFAULT as VENVS

from measure import report, spread

OPT, SMALL = "opt-1.3b's shape", "SmolLM2-135M"


@dataclass(frozen=True)
class Goal:
    """What is to be measured: seconds to the "first" token or for "each" next one, which stand for so many tokens.

    share: of the measured read bandwidth that cutaway is to reach on opt-1.3b's shape; None if it is not looked at.
    """

    what: str
    tokens: int
    share: float | None = None


def options(doc: str | None) -> argparse.Namespace:
    """The command line of both; the defaults are those of the published result."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--venvs", type=Path, default=VENVS, help="the folder of the peers' venvs")
    parser.add_argument("--models", type=Path, default=STAND_IN, help="the folder of the stand-in and its conversions")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=(OPT, SMALL), help="one of the two models; the result is then only printed")
    return parser.parse_args()


def entrants(models: Models, targets: Mapping[str, float]) -> dict[str, list[Entrant]]:
    """Who runs on which model: cutaway's default first, then LLM.int8(), and those that have a target."""
    ours, peer = models.own, models.peer
    every = {
        OPT: [
            Entrant("cutaway int8", "cutaway_int8", ours, models.opt_int8),
            Entrant("cutaway int8, AVX2", "cutaway_int8", ours, models.opt_int8, "avx2"),
            Entrant("cutaway llm-int8", "cutaway_int8", ours, lambda: models.opt_int8("llm-int8")),
            Entrant("transformers + bitsandbytes int8", "bitsandbytes_int8", lambda: peer("bitsandbytes"), models.opt),
            Entrant("CTranslate2 int8", "ctranslate2_int8", lambda: peer("ctranslate2"), models.opt_ctranslate2),
            Entrant("OpenVINO int8", "openvino_int8", lambda: peer("openvino"), models.opt_openvino),
            Entrant("OpenVINO int8, AVX2", "openvino_int8", lambda: peer("openvino"), models.opt_openvino, "avx2"),
        ],
        SMALL: [
            Entrant("cutaway int8", "cutaway_int8", ours, models.small_int8),
            Entrant("cutaway int8, AVX2", "cutaway_int8", ours, models.small_int8, "avx2"),
            Entrant("cutaway llm-int8", "cutaway_int8", ours, lambda: models.small_int8("llm-int8")),
            Entrant("llama.cpp Q8_0", "llama_cpp_q8_0", lambda: peer("llama_cpp"), models.small_q8_0),
            Entrant(
                "llama.cpp Q8_0, AVX2", "llama_cpp_q8_0", lambda: peer("llama_cpp_avx2"), models.small_q8_0, "avx2"
            ),
            Entrant("transformers bfloat16", "transformers_bf16", ours, models.small),
        ],
    }
    return {
        model: [entrant for entrant in some if entrant.worker == "cutaway_int8" or entrant.name in targets]
        for model, some in every.items()
    }


def rows(
    model: str, results: Sequence[Result], bandwidth: Sequence[float], goal: Goal, targets: Mapping[str, float]
) -> list[list[str]]:
    """One row an engine: speed, share of the bandwidth, how much faster cutaway is, whether that is enough, and how
    many of the new ids are cutaway's (different roundings may part on a near tie). An engine that is held to an
    instruction set is compared with cutaway on the same."""
    by_isa = {result.entrant.isa: result for result in reversed(results) if result.entrant.worker == "cutaway_int8"}
    ours = by_isa | {"": results[0]}
    return [_row(model, result, ours[result.entrant.isa], bandwidth, goal, targets) for result in results]


HEADER = ["model", "engine", "settings", "tokens/s", "read a token", "of the bandwidth", "cutaway is", "asked", "holds",
          "same ids"]  # fmt: skip


def _row(
    model: str, result: Result, ours: Result, bandwidth: Sequence[float], goal: Goal, targets: Mapping[str, float]
) -> list[str]:
    name = result.entrant.name
    if not result.answers:
        return [model, name, result.missing, "", "", "", "", "", "NO", ""]
    seconds, nbytes = result.seconds(goal.what), result.facts["nbytes"]
    share = statistics.median(nbytes / s / read for s, read in zip(seconds, bandwidth, strict=True))
    per_token = goal.what == "each"  # a prefill reads the weights once for all its tokens
    row = [model, name, result.facts["settings"], spread([goal.tokens / s for s in seconds], "")]
    row += [f"{nbytes / 1e6:,.0f} MB", f"{share:.2f}"] if per_token else ["", ""]
    if result is ours:
        asked = goal.share if model == OPT else None
        row += ["", "" if asked is None else f"{asked:.2f} of the bandwidth"]
        return [*row, "" if asked is None else yes(share >= asked), ""]
    ratio = statistics.median(theirs / own for theirs, own in zip(seconds, ours.seconds(goal.what), strict=True))
    asked = targets.get(name)
    goal_met = ["", ""] if asked is None else [f"{asked:.2f} ×", yes(ratio >= asked)]
    return [*row, f"{ratio:.2f} ×", *goal_met, _alike(result, ours)]


def yes(holds: bool) -> str:
    """The word of the column."""
    return "yes" if holds else "NO"


def _alike(result: Result, ours: Result) -> str:
    pairs = list(zip(result.answers[0]["ids"], ours.answers[0]["ids"], strict=True))
    same = next((i for i, (theirs, own) in enumerate(pairs) if theirs != own), len(pairs))
    return f"first {same} of {len(pairs)}"


def versions(results: Sequence[Result]) -> str:
    """What ran, for the note under the table."""
    return "; ".join(f"{result.entrant.name}: {result.facts['versions']}" for result in results if result.answers)


def contest(
    name: str, title: str, goal: Goal, targets: Mapping[str, Mapping[str, float]], lengths: tuple[int, int], doc: str
) -> None:
    """Run everything on both models and write the result. lengths: of the prompt, and how many new tokens."""
    given = options(doc)
    models = Models(given.models, given.venvs)
    table, notes = [], []
    for model in (OPT, SMALL) if given.only is None else (given.only,):
        some = entrants(models, targets[model])[model]
        request = {"prompt": models.ids(lengths[0]), "new": lengths[1]}
        task = "decode" if goal.what == "each" else "prefill"
        results, bandwidth = race(
            some, request, rounds=given.rounds, threads=given.threads, task=task, python=models.own()
        )
        table += rows(model, results, bandwidth, goal, targets[model])
        notes += [
            f"{model}: the machine read {spread([read / 1e9 for read in bandwidth], 'GB/s')}; {versions(results)}."
        ]
    how = f"{given.threads} threads, {given.rounds} interleaved rounds, medians (least to most); a prompt of "
    how += f"{lengths[0]} tokens, {lengths[1]} new."
    full = [place for place, _ in enumerate(HEADER) if any(row[place] for row in table)]
    kept = [[row[place] for place in full] for row in [HEADER, *table]]
    report(name, title, kept[0], kept[1:], "\n\n".join([how, *notes]), keep=given.only is None)
