"""Claim: in 8 bits Qwen, Gemma and Pythia decode as near the memory's speed as Llama, and faster than llama.cpp.

Models of about half a billion random weights, in the shapes of published ones, each as one Q8_0 GGUF that cutaway and
llama.cpp both read. Time from one new token to the next, interleaved; the bandwidth is measured in the same rounds.
"""

import argparse
import statistics
import sys
from pathlib import Path

from contest import yes
from engines import Entrant, Result, race
from load import DEFAULT as FOLDER
from models import CONVERT, Models
from peers import DEFAULT as VENVS

from measure import report, spread

SHAPES = {
    "llama": "Llama, as SmolLM2-360M",
    "qwen2": "Qwen2-0.5B",
    "qwen3": "Qwen3-0.6B",
    "gemma3_text": "Gemma 3 1B's widths, 8 layers",
    "gpt_neox": "Pythia-410M",
    "qwen3_moe": "Qwen3-30B-A3B's widths, 6 layers, 32 experts",
}
FASTER, SHARE = 1.1, 0.7  # × llama.cpp; of Llama's share of the bandwidth
PROMPT, NEW = 16, 48
ISAS = ("", "avx2")  # the machine's best first


def entrants(models: Models, shape: str) -> list[Entrant]:
    """cutaway and llama.cpp, each with the machine's best instructions and held to AVX2, on the same file."""

    def model() -> Path:
        return models.made(f"{shape}-q8_0.gguf", [sys.executable, CONVERT / "to_family.py", shape])

    return [
        Entrant("cutaway int8", "cutaway_int8", models.own, model),
        Entrant("llama.cpp Q8_0", "llama_cpp_q8_0", lambda: models.peer("llama_cpp"), model),
        Entrant("cutaway int8", "cutaway_int8", models.own, model, "avx2"),
        Entrant("llama.cpp Q8_0", "llama_cpp_q8_0", lambda: models.peer("llama_cpp_avx2"), model, "avx2"),
    ]


def share(result: Result, bandwidth: list[float]) -> float:
    """Of the bandwidth of each round, that the reading of the weights alone takes."""
    seconds, nbytes = result.seconds("each"), result.facts["nbytes"]
    return statistics.median(nbytes / s / read for s, read in zip(seconds, bandwidth, strict=True))


def rows(shape: str, ours: Result, theirs: Result, bandwidth: list[float], llama: float | None) -> list[str]:
    """One row a shape and instruction set; llama: Llama's share of the bandwidth there."""
    if llama is None or not ours.answers or not theirs.answers:
        return [SHAPES[shape], ours.facts.get("settings", ours.missing), theirs.missing, *[""] * 4, "NO"]
    each = [result.seconds("each") for result in (ours, theirs)]
    ratio = statistics.median(their / own for own, their in zip(*each, strict=True))
    reached = share(ours, bandwidth)
    holds = ratio >= FASTER and reached >= SHARE * llama
    tokens = [spread([1 / s for s in seconds], "") for seconds in each]
    return [
        SHAPES[shape], ours.facts["settings"], *tokens, f"{ratio:.2f} ×", f"{reached:.2f}", f"{reached / llama:.2f}",
        yes(holds),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venvs", type=Path, default=VENVS, help="the folder of the peers' venvs")
    parser.add_argument("--models", type=Path, default=FOLDER, help="the folder where the models are kept")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=SHAPES, help="Llama and this one; the result is then only printed")
    options = parser.parse_args()
    models, table, llama = Models(options.models, options.venvs), [], dict[str, float]()
    for shape in SHAPES if options.only is None else dict.fromkeys(("llama", options.only)):
        request = {"prompt": models.ids(PROMPT), "new": NEW}
        results, bandwidth = race(
            entrants(models, shape), request, rounds=options.rounds, threads=options.threads, task="decode",
            python=models.own(),
        )  # fmt: skip
        for isa, (ours, theirs) in zip(ISAS, (results[:2], results[2:]), strict=True):
            if ours.answers:
                llama.setdefault(isa, share(ours, bandwidth))
            table.append(rows(shape, ours, theirs, bandwidth, llama.get(isa)))
    header = ["shape", "cutaway", "cutaway, tokens/s", "llama.cpp Q8_0", "cutaway is", "of the bandwidth",
              "of Llama's share", "holds"]  # fmt: skip
    report(
        "families", "New tokens of other families, one text", header, table,
        f"Asked: {FASTER} × llama.cpp on the same file, and {SHARE} of Llama's share of the bandwidth. "
        f"{PROMPT} tokens of prompt, {NEW} new ones, {options.rounds} rounds, {options.threads} threads.",
        keep=options.only is None,
    )  # fmt: skip


if __name__ == "__main__":
    main()
