"""Claim: no model type decodes in 8 bits at less than 0.7 of the bandwidth that Llama reaches.

Of each type the first configuration of its tests (tests/model_types.py), widened: 2,048 wide, 6 layers, random weights
in mode int8; mixtures as Qwen3 MoE, 8 experts of 768 a token. Its new tokens and Llama's in turn, in one process.
"""

import argparse
import statistics
import sys
import time
from dataclasses import replace
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any

import torch
from random_models import decoder

from cutaway.ground.config import AlibiConfig, DecoderConfig, RopeConfig
from cutaway.model import architecture
from cutaway.model.decoder import Decoder
from cutaway.quant.natively import not_computed
from cutaway.sample.loop import generate
from cutaway.sample.settings import Sampling
from cutaway.text.pieces import Tokens
from measure import report

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.model_types import OPTIONS, drawn
from tests.tiny import facts

WIDTH, LAYERS, HEADS, D_HEAD, MLP, NEW = 2048, 6, 16, 128, 5632, 24
SHARE = 0.7


def widened(config: DecoderConfig) -> DecoderConfig:
    """The same kinds of parts, each of a published model's width."""

    def rope(own: RopeConfig | None) -> RopeConfig | None:
        return own and RopeConfig(own.theta, own.dims * D_HEAD // config.d_head, interleaved=own.interleaved)

    def by_layer(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(islice(cycle(values), LAYERS)) if values else ()

    groups = HEADS if config.n_kv_heads == config.n_heads else 1 if config.n_kv_heads == 1 else 4
    return replace(
        config, vocab_size=32000, n_layers=LAYERS, d_model=WIDTH, n_heads=HEADS, n_kv_heads=groups, d_head=D_HEAD,
        d_mlp=768 if config.n_experts else MLP, n_positions=2048, d_embed=WIDTH, rope=rope(config.rope),
        layer_ropes=by_layer(tuple(map(rope, config.layer_ropes))),
        layer_windows=by_layer(tuple(own and 512 for own in config.layer_windows)),
        alibi=config.alibi and AlibiConfig(tuple(2.0**-i for i in range(HEADS))),
        n_experts=16 if config.n_experts else 0, experts_per_token=8 if config.n_experts else 0,
    )  # fmt: skip


def read_bytes(model: Decoder) -> float:
    """Of the weights that a new token needs."""
    chosen = model.config.experts_per_token / max(model.config.n_experts, 1)
    rows = [row for row in architecture.rows(model) if not row.name.startswith("embed.")]
    return sum(row.bytes * row.count * (chosen if ".experts." in row.name else 1) for row in rows)


def rate(model: Decoder) -> float:
    """Bytes a second that new tokens read."""
    ends = [time.perf_counter()]
    for _step in generate(model, Tokens.from_ids([list(range(5, 21))]), Sampling(max_new_tokens=NEW)):
        ends.append(time.perf_counter())
    return read_bytes(model) / statistics.median(b - a for a, b in list(pairwise(ends))[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)

    def model(model_type: str) -> Decoder:
        return decoder(widened(facts(drawn(model_type, 0))), "int8", "cpu", torch.float32)

    llama, table = model("llama"), []
    for model_type in sorted(OPTIONS):
        own = model(model_type)
        rounds = [(rate(own), rate(llama)) for _ in range(given.rounds + 1)][1:]
        ratio = statistics.median(mine / its for mine, its in rounds)
        speed = f"{statistics.median(mine for mine, _ in rounds) / 1e9:.1f} GB/s"
        how = "called" if not_computed(own.config) else "native"
        table.append([model_type, how, f"{read_bytes(own) / 1e6:.0f} MB", speed, f"{ratio:.2f}",
                      "yes" if ratio >= SHARE else "NO"])  # fmt: skip
        print(*table[-1], flush=True)
    report(
        "every_type", "New tokens of every model type",
        ["type", "blocks", "a token reads", "at", "of Llama's", "holds"], table,
        f"At least {SHARE} asked. {given.threads} threads, rounds: {given.rounds}, one process.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
