"""cutaway, this tree's or another's: a pass without and with recording every site, and generation likewise.

After the threads, "-" or JSON with any of `source` (the src folder of a tree, as old as 1e23ea7), `mode` and `isa`.
"""

import importlib.util
import json
import statistics
import sys
import time
from contextlib import suppress
from itertools import pairwise
from typing import Any

import torch
from serve import versions
from tracing import Written, serve

asked = json.loads(sys.argv[3]) if sys.argv[3] != "-" else {}
sys.path.insert(0, asked.get("source", ""))
import cutaway  # noqa: E402  of that tree
from cutaway.sample.generation import new_ids_of  # noqa: E402


def use_isa(isa: str) -> None:
    """Has the native library run these instructions, by the name that the tree has for that."""
    for module in ("cutaway.quant.native", "cutaway.quant.kernels"):
        with suppress(ModuleNotFoundError):
            native = importlib.import_module(module)
            return (getattr(native, "use_isa", None) or native.force)(isa)
    raise ModuleNotFoundError("no native library")


torch.set_num_threads(int(sys.argv[2]))
if asked.get("isa"):
    use_isa(asked["isa"])
mode = asked.get("mode", "int8")
if mode == "llm-int8" and importlib.util.find_spec("cutaway.quant.formats") is None:
    mode = "int8"  # what older trees call it
lm = cutaway.load(sys.argv[1], quantize=mode, device="cpu")
engine = next((layer.engine for layer in lm.decoder.modules() if hasattr(layer, "engine")), "float32")


def most(site: str) -> bool:
    return not site.endswith(("attn.scores", "attn.pattern"))


def written(ids: list[int], new: int, sites: Any = None) -> Written:
    """What lm.generate does, with the clock read at every step."""
    prompt = torch.tensor([ids])
    recording = None if sites is None else lm.recording(prompt, sites, max_new_tokens=new)
    steps, times = [], [time.perf_counter()]
    for step in lm.stream(prompt, max_new_tokens=new, **({} if recording is None else {"tap": recording.tap})):
        steps.append(step)
        times.append(time.perf_counter())
    trace = None if recording is None else recording.trace(new_ids_of(steps, 1))
    between = [after - before for before, after in pairwise(times[1:])]
    return Written((steps, trace), statistics.median(between) if between else 0.0)


serve(
    {
        "pass": lambda ids, new: lm.logits(torch.tensor([ids])),
        "trace": lambda ids, new: lm.trace(torch.tensor([ids])),
        "trace, no scores": lambda ids, new: lm.trace(torch.tensor([ids]), most),
        "generate": written,
        "generate, recorded": lambda ids, new: written(ids, new, most),
        "generate, residuals": lambda ids, new: written(ids, new, "blocks.*.resid_post"),
    },
    settings=f"{engine}, torch {torch.backends.cpu.get_cpu_capability()}",
    runs_on=versions("torch"),
)
