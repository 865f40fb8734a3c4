"""What decode.py and prefill.py share: who runs, the command line, and the rows of the table.

A ratio is the median over the rounds of peer's time / cutaway's time in the same round. It does not know how an
engine is asked (engines.py).
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engines import Entrant, Result
from load import DEFAULT as STAND_IN
from models import Models
from peers import DEFAULT as VENVS

from measure import spread

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
    return parser.parse_args()


def entrants(models: Models, targets: Mapping[str, float]) -> dict[str, list[Entrant]]:
    """Who runs on which model: cutaway first, and those that have a target."""
    ours, peer = models.own, models.peer
    every = {
        OPT: [
            Entrant("cutaway int8", "cutaway_int8", ours, models.opt_int8),
            Entrant("transformers + bitsandbytes int8", "bitsandbytes_int8", lambda: peer("bitsandbytes"), models.opt),
            Entrant("CTranslate2 int8", "ctranslate2_int8", lambda: peer("ctranslate2"), models.opt_ctranslate2),
            Entrant("OpenVINO int8", "openvino_int8", lambda: peer("openvino"), models.opt_openvino),
        ],
        SMALL: [
            Entrant("cutaway int8", "cutaway_int8", ours, models.small_int8),
            Entrant("llama.cpp Q8_0", "llama_cpp_q8_0", lambda: peer("llama_cpp"), models.small_q8_0),
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
    """One row an engine: speed, share of the bandwidth, how much faster cutaway is, and whether that is enough."""
    ours = results[0].seconds(goal.what)
    table = []
    for result in results:
        if not result.answers:
            blank = [""] * (4 if goal.share is None else 6)
            table.append([model, result.entrant.name, result.missing, *blank, "NO"])
            continue
        seconds = result.seconds(goal.what)
        row = [model, result.entrant.name, result.facts["settings"], spread([goal.tokens / s for s in seconds], "")]
        shares = [result.facts["nbytes"] / s / b for s, b in zip(seconds, bandwidth, strict=True)]
        if goal.share is not None:
            row += [f"{result.facts['nbytes'] / 1e6:,.0f} MB", f"{statistics.median(shares):.2f}"]
        table.append(row + _verdict(model, result, seconds, ours, shares, goal, targets) + [_alike(result, results[0])])
    return [[*row[:-2], row[-1], row[-2]] if len(row[-1]) > 3 else row for row in table]
