"""cutaway in 8 bits: a pass without and with recording every site, and generation likewise."""

import statistics
import sys
import time
from itertools import pairwise
from typing import Any

import torch
from serve import versions
from tracing import Written, serve

import cutaway
from cutaway.model.tap import untapped
from cutaway.sample.generation import new_ids_of

torch.set_num_threads(int(sys.argv[2]))
lm = cutaway.load(sys.argv[1], device="cpu")


def most(site: str) -> bool:
    return not site.endswith(("attn.scores", "attn.pattern"))


def written(ids: list[int], new: int, sites: Any = None) -> Written:
    """What lm.generate does, with the clock read at every step."""
    prompt, tap = torch.tensor([ids]), untapped
    recording = None if sites is None else lm.recording(prompt, sites, max_new_tokens=new)
    steps, times = [], [time.perf_counter()]
    for step in lm.stream(prompt, tap=tap if recording is None else recording.tap, max_new_tokens=new):
        steps.append(step)
        times.append(time.perf_counter())
    trace = None if recording is None else recording.trace(new_ids_of(steps, 1))
    return Written((steps, trace), statistics.median(after - before for before, after in pairwise(times[1:])))


serve(
    {
        "pass": lambda ids, new: lm.logits(torch.tensor([ids])),
        "trace": lambda ids, new: lm.trace(torch.tensor([ids])),
        "trace, no scores": lambda ids, new: lm.trace(torch.tensor([ids]), most),
        "generate": written,
        "generate, recorded": lambda ids, new: written(ids, new, most),
        "generate, residuals": lambda ids, new: written(ids, new, "blocks.*.resid_post"),
    },
    settings="int8, float32 between the layers",
    runs_on=versions("torch"),
)
