"""Claim: LLM.int8() costs SmolLM2 next to nothing: top-1 agreement with full precision of at least 97 %.

Perplexity of each mode, and its next-token distributions against full precision, over the first 20,480 tokens of
Python's own documentation (pydoc's topics), in segments of 2048. What each half of LLM.int8() does alone stands
beside; so do bitsandbytes' LLM.int8() in transformers, which leaves the head in full precision, and llama.cpp's Q8_0,
which has a scale for every 32 weights and every 32 activations.
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
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import cutaway
from cutaway.analysis.compare import kl_divergence
from cutaway.quant.formats import quantize_activation
from measure import report

Read = Callable[[Tensor], Tensor]  # ids [T] → logits [T, V]
AT_ONCE = 256  # positions compared together in float64
AGREEMENT = 0.97


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


def activations_alone() -> Read:
    """What each layer takes, as LLM.int8() rounds it, times the weight in full precision."""

    def rounded(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x_MK = given[0].flatten(0, -2)
        codes_MK, scale_M, outlier_MK = quantize_activation(x_MK)
        seen_MK = torch.where(outlier_MK, x_MK, codes_MK * (scale_M / 127)[:, None])
        return seen_MK.reshape(given[0].shape), *given[1:]

    lm = cutaway.load(Models().small(), quantize=None, dtype="float32", device="cpu")
    for module in lm.decoder.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(rounded)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=20480)
    parser.add_argument("--segment", type=int, default=2048)
    given = parser.parse_args()
    full = ours(None)
    modes = {
        "full precision (float32)": full, "`int8`, the default": ours("int8"),
        "`int8`, head kept": ours("int8", ("lm_head",)), "`int8-pooled`": ours("int8-pooled"),
        "`int8-weight`": ours("int8-weight"), "`int8-weight`, head kept": ours("int8-weight", ("lm_head",)),
        "activations alone": activations_alone(), "bitsandbytes": theirs(),
    }  # fmt: skip
    notes = ""
    try:
        modes["llama.cpp Q8_0"] = llama_cpp()
    except Missing as missing:
        notes = f"llama.cpp Q8_0: {missing}.\n\n"
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
    default, peer = costs["`int8`, the default"], costs["bitsandbytes"]
    notes += f"{len(ids)} tokens in segments of {given.segment}; the first of each has nothing before it and is not "
    notes += "scored. KL(full ‖ mode) in nats, mean over all positions.\n\n"
    notes += f"`int8` agrees at {AGREEMENT:.0%} of the positions or more: {yes(default.agreement >= AGREEMENT)}. "
    notes += f"`int8` is no worse than bitsandbytes by KL: {yes(default.mean_kl <= peer.mean_kl)}; "
    notes += f"by perplexity: {yes(default.perplexity <= peer.perplexity)}. With the head in full precision, as "
    kept = costs["`int8`, head kept"]
    notes += f"bitsandbytes leaves it: {yes(round(kept.mean_kl, 4) <= round(peer.mean_kl, 4))}; "
    notes += f"{yes(kept.perplexity <= peer.perplexity)}. LLM.int8() rounds twice. The weights alone change "
    notes += f"{1 - costs['`int8-weight`'].agreement:.1%} of the likeliest tokens, the activations alone "
    notes += f"{1 - costs['activations alone'].agreement:.1%}."
    header = ["mode", "perplexity", "mean KL", "same likeliest token"]
    report("quality", "What 8 bits cost SmolLM2-135M", header, rows, notes)


if __name__ == "__main__":
    main()
