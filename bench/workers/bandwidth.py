"""How fast this machine reads memory: the sum of a gigabyte, the best of several kinds of reading, by torch."""

import sys
import time

import torch
from serve import answer, arguments, versions

_, threads, _ = arguments()
torch.set_num_threads(threads)
data = torch.ones(1 << 28)  # 2^30 bytes
READS = {"sum": data.sum, "max": data.max, "dot": lambda: torch.dot(data, data)}


def best(runs: int = 5) -> float:
    """Bytes a second, of the fastest run."""
    seconds = []
    for read in READS.values():
        for _ in range(runs):
            start = time.perf_counter()
            read()
            seconds.append(time.perf_counter() - start)
    return data.nbytes / min(seconds)


best(2)
answer({"settings": "", "nbytes": 0, "versions": versions("torch")})
for _ in sys.stdin:
    answer({"bandwidth": best()})
