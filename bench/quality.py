"""Claim: 8 bits keep 97.8 % or more of SmolLM2's likeliest tokens, and cost a KL of 0.0013 at most.

Perplexity of each mode, and its next-token distributions against full precision, over the first 20,480 tokens of
Python's own documentation (pydoc's topics), in segments of 2048. Beside the default stand LLM.int8(), ours and
bitsandbytes' in transformers (which leaves the head in full precision), and llama.cpp's Q8_0, which has the default's
weights and activations in 8 bits, with a scale for every 32.
"""

import argparse
import json
import logging
import math
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from contest import yes
from models import Models
from peers import Missing
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import cutaway
from cutaway.analysis.compare import kl_divergence
from measure import report

Read = Callable[[Tensor], Tensor]  # ids [T] → logits [T, V]
AT_ONCE = 256  # positions compared together in float64
AGREEMENT, KL, OF_LLAMA_CPP = 0.978, 0.0013, 0.33
DEFAULT, LLAMA_CPP = "`int8`, the default", "llama.cpp Q8_0"


@dataclass
class Cost:
    """What a mode did to every position: negative log likelihood, KL(full ‖ mode), the same likeliest token."""

    nll: list[Tensor] = field(default_factory=list)
    kl: list[Tensor] = field(default_factory=list)
    same: list[Tensor] = field(default_factory=list)

    def add(self, full_TV: Tensor, mode_TV: Tensor, ids_T: Tensor) -> None:
        self.nll.append(F.cross_entropy(mode_TV[:-1], ids_T[1:], reduction="none"))
        for full, mode in zip(full_TV.split(AT_ONCE), mode_TV.split(AT_ONCE), strict=True):
            self.kl.append(kl_divergence(full, mode))
            self.same.append(full.argmax(-1) == mode.argmax(-1))

    @property
    def perplexity(self) -> float:
        return math.exp(torch.cat(self.nll).double().mean())

    @property
    def mean_kl(self) -> float:
        return float(torch.cat(self.kl).mean())

    @property
    def agreement(self) -> float:
        return float(torch.cat(self.same).double().mean())


def ours(mode: str | None, keep: tuple[str, ...] = ()) -> Read:
    lm = cutaway.load(Models().small(), quantize=mode, keep=keep, dtype="float32", device="cpu")
    return lambda ids_T: lm.logits(ids_T[None])[0]


def llama_cpp() -> Read:
    """Raises Missing where the peer cannot be made."""
    python, model = Models().peer("llama_cpp"), Models().small_q8_0()
    worker = Path(__file__).parent / "workers" / "llama_cpp_logits.py"

    def read(ids_T: Tensor) -> Tensor:
        with tempfile.TemporaryDirectory() as folder:
            out, threads = Path(folder) / "logits.npy", str(torch.get_num_threads())
            command = [python, worker, model, json.dumps(ids_T.tolist()), out, threads]
            subprocess.run([str(part) for part in command], check=True, capture_output=True)
            return torch.from_numpy(np.load(out))

    return read


def theirs() -> Read:
    logging.disable(logging.WARNING)  # it writes a line for every product
    model = AutoModelForCausalLM.from_pretrained(
        Models().small(), quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.float32,
        device_map="cpu",
    ).eval()  # fmt: skip

    def read(ids_T: Tensor) -> Tensor:
        with torch.inference_mode():
            return model(input_ids=ids_T[None]).logits[0]

    return read


def verdict(costs: dict[str, Cost]) -> str:
    """Which of the claims hold."""
    default, old, peer = costs[DEFAULT], costs["`llm-int8`, head kept"], costs["bitsandbytes"]
    said = f"`int8` agrees at {AGREEMENT:.1%} of the positions or more: {yes(default.agreement >= AGREEMENT)}. "
    said += f"KL at most {KL}: {yes(default.mean_kl <= KL)}. "
    if LLAMA_CPP in costs:
        ratio = default.mean_kl / costs[LLAMA_CPP].mean_kl
        said += f"KL over that of llama.cpp's Q8_0: {ratio:.2f}, at most {OF_LLAMA_CPP}: {yes(ratio <= OF_LLAMA_CPP)}. "
    said += (
        "`llm-int8` with the head in full precision, as bitsandbytes leaves it, is no worse than bitsandbytes by KL: "
    )
    said += f"{yes(round(old.mean_kl, 4) <= round(peer.mean_kl, 4))}; "
    return said + f"by perplexity: {yes(old.perplexity <= peer.perplexity)}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=20480)
    parser.add_argument("--segment", type=int, default=2048)
    given = parser.parse_args()
    full = ours(None)
    modes = {
        "full precision (float32)": full, DEFAULT: ours("int8"), "`int8`, head kept": ours("int8", ("lm_head",)),
        "`llm-int8`": ours("llm-int8"), "`llm-int8`, head kept": ours("llm-int8", ("lm_head",)),
        "`llm-int8-pooled`": ours("llm-int8-pooled"), "bitsandbytes": theirs(),
    }  # fmt: skip
    notes = ""
    try:
        modes[LLAMA_CPP] = llama_cpp()
    except Missing as missing:
        notes = f"{LLAMA_CPP}: {missing}.\n\n"
    costs = {name: Cost() for name in modes}
    ids = torch.tensor(Models().ids(given.tokens))
    for ids_T in ids.split(given.segment):
        full_TV = full(ids_T)
        for name, read in modes.items():
            costs[name].add(full_TV, read(ids_T), ids_T)
    rows = [
        [name, f"{cost.perplexity:.4f}", f"{cost.mean_kl:.3g}", f"{cost.agreement * 100:.2f} %"]
        for name, cost in costs.items()
    ]
    notes += f"{len(ids)} tokens in segments of {given.segment}; the first of each has nothing before it and is not "
    notes += "scored. KL(full ‖ mode) in nats, mean over all positions.\n\n"
    notes += verdict(costs)
    header = ["mode", "perplexity", "mean KL", "same likeliest token"]
    report("quality", "What 8 bits cost SmolLM2-135M", header, rows, notes)


if __name__ == "__main__":
    main()
