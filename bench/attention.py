"""Claim: a prompt's attention takes at most 1.3 × torch's fused kernel, and a token's over a cache what its bytes cost.

Each row is the median of several processes, each with one instruction set: ours and torch's in turn on the same values,
and a plain read of the machine's memory. Then tokens a second of the default model as its context grows.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from measure import in_a_process, report, spread

SHAPES = {"SmolLM2": (9, 3, 64), "opt-1.3b": (32, 32, 64)}  # query heads, key/value heads, their width
PROMPTS = (128, 512, 1024, 2048, 4096)
CACHES = (256, 512, 1024, 2048, 4096)
CONTEXTS = (64, 512, 1024, 2000, 4000)
AT_MOST = 1.3  # × torch's fused attention
ISAS = {"avx512-vnni": "avx512", "avx2": "avx2"}  # ours, and torch's name for the like
IN_PROCESS = """
import os, sys
sys.path.insert(0, sys.argv[1])
os.environ["ATEN_CPU_CAPABILITY"] = sys.argv[3]  # before torch is imported
os.environ["MKL_ENABLE_INSTRUCTIONS"] = sys.argv[3]
import attention
result = getattr(attention, sys.argv[2])(*sys.argv[4:])
"""


def timed(*calls: Callable[[], object], seconds: float) -> list[float]:
    """The median of each call's times; they run in turn, so long, twice at least, after one uncounted round."""
    rounds: list[list[float]] = []
    end = 0.0
    while len(rounds) < 3 or time.perf_counter() < end:
        rounds.append([])
        for call in calls:
            start = time.perf_counter()
            call()
            rounds[-1].append(time.perf_counter() - start)
        end = end or time.perf_counter() + seconds
    return [statistics.median(times) for times in zip(*rounds[1:], strict=True)]


def prompt(isa: str, shape: str) -> dict[str, list[float]]:
    """Seconds of one layer's causal attention over a prompt of each length: ours, torch's."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from cutaway.quant import native

    native.use_isa(isa)
    heads, groups, width = SHAPES[shape]
    results = {}
    for tokens in PROMPTS:
        q, k, v = (torch.randn(1, tokens, n, width, dtype=torch.float32, device="cpu") for n in (heads, groups, groups))
        by_head = [part.transpose(1, 2) for part in (q, k, v)]
        results[str(tokens)] = timed(
            lambda: native.attend(q, k, v, True),  # noqa: B023
            lambda: scaled_dot_product_attention(*by_head, is_causal=True, enable_gqa=heads != groups),  # noqa: B023
            seconds=1,
        )
    return results


def token(isa: str, shape: str) -> dict[str, list[float]]:
    """Bytes a second of one token's attention over caches of each length, and of a plain read of as many."""
    import torch

    from cutaway.quant import native

    native.use_isa(isa)
    heads, groups, width = SHAPES[shape]
    results = {}
    q = torch.randn(1, 1, heads, width, dtype=torch.float32, device="cpu")
    for positions in CACHES:
        nbytes = 2 * positions * groups * width * 4
        count = 2**28 // nbytes  # more than the processor's own caches hold
        cached = torch.randn(count, 2, 1, positions, groups, width, dtype=torch.float32, device="cpu")

        def attend() -> None:
            for k, v in cached:  # noqa: B023
                native.attend(q, k, v, False)

        seconds = timed(attend, cached.sum, cached.max, seconds=1.5)
        results[str(positions)] = [count * nbytes / seconds[0], count * nbytes / min(seconds[1:])]
    return results


def decode(isa: str, new: str = "24") -> dict[str, list[float]]:
    """The default model in 8 bits: seconds to read a prompt of each length, and from one token to the next after it."""

    import cutaway
    from cutaway.quant import native
    from cutaway.sample.loop import generate
    from cutaway.sample.settings import Sampling
    from cutaway.text.pieces import Tokens

    native.use_isa(isa)
    lm = cutaway.load(device="cpu")
    results = {}
    for context in (64, *CONTEXTS):  # the first is not counted
        tokens = Tokens.from_ids([list(range(100, 100 + context))])
        times = [time.perf_counter()]  # no eos ids: the loop ends by length only
        times += [time.perf_counter() for _ in generate(lm.decoder, tokens, Sampling(max_new_tokens=int(new)))]
        between = [later - earlier for earlier, later in pairwise(times)]
        results[str(context)] = [between[0], statistics.median(between[1:])]
    return results


def processes(count: int, function: str, isa: str, *given: str) -> dict[str, list[list[float]]]:
    """Of each length, what the function says in each of so many processes: one list a number."""
    found = [
        in_a_process(IN_PROCESS, str(Path(__file__).parent), function, ISAS[isa], isa, *given) for _ in range(count)
    ]
    lengths = [length for length in found[0] if length.isdigit()]
    return {length: [list(each) for each in zip(*(one[length] for one in found), strict=True)] for length in lengths}


def rows(isa: str, count: int, only: Sequence[str]) -> Iterator[list[str]]:
    """Of one instruction set: what, shape, length, ours, the other, their ratio, what is asked, whether it holds."""
    for shape in SHAPES if "prompt" in only else ():
        for length, (ours, theirs) in processes(count, "prompt", isa, shape).items():
            ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
            milliseconds = [spread([1e3 * s for s in times], "ms") for times in (ours, theirs)]
            yield ["prompt", isa, shape, length, milliseconds[0], "torch " + milliseconds[1], f"{ratio:.2f}",
                   f"≤ {AT_MOST}", "yes" if ratio <= AT_MOST else "NO"]  # fmt: skip
    for shape in SHAPES if "token" in only else ():
        for length, (ours, read) in processes(count, "token", isa, shape).items():
            ratio = statistics.median(a / b for a, b in zip(ours, read, strict=True))
            speeds = [spread([speed / 1e9 for speed in each], "GB/s") for each in (ours, read)]
            yield ["one token", isa, shape, length, speeds[0], "read " + speeds[1], f"{ratio:.2f}", "", ""]
    for length, (first, each) in processes(count, "decode", isa).items() if "decode" in only else ():
        yield ["SmolLM2, whole", isa, "", length, spread([1 / s for s in each], "tok/s"),
               "prompt " + spread([1e3 * s for s in first], "ms"), "", "", ""]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--only", choices=("prompt", "token", "decode"), help="the result is then only printed")
    parser.add_argument("--isa", choices=ISAS, help="the result is then only printed")
    given = parser.parse_args()
    only = (given.only,) if given.only else ("prompt", "token", "decode")
    table = [row for isa in ([given.isa] if given.isa else ISAS) for row in rows(isa, given.processes, only)]
    header = ["what", "instructions", "shape", "length", "cutaway", "beside it", "ratio", "asked", "holds"]
    notes = f"{os.cpu_count()} threads; medians of {given.processes} processes (least to most). prompt: one layer, "
    notes += (
        "causal; seconds over seconds of torch's scaled_dot_product_attention. one token: bytes of keys and values "
    )
    notes += "a second over those of a plain read, each cache by a call from Python of its own."
    report("attention", "Attention", header, table, notes, keep=not (given.only or given.isa))


if __name__ == "__main__":
    main()
