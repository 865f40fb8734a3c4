"""Claim: a new token of a mixture of experts reads the weights of the chosen ones alone.

Two models of Qwen3 MoE's widths in mode int8 that differ in how many experts a layer has, 8 of them chosen: a token
takes as long, though one is three times as large. Random weights; the routers are in float32.
"""

import argparse
import statistics
import time
from itertools import pairwise

import torch
from random_models import decoder

from cutaway.model import architecture
from cutaway.model.decoder import Decoder
from cutaway.sample.loop import generate
from cutaway.sample.settings import Sampling
from cutaway.text.pieces import Tokens
from cutaway.weights.families import facts_of
from measure import report, spread

CONFIG = {"model_type": "qwen3_moe", "vocab_size": 32000, "hidden_size": 2048, "num_hidden_layers": 6,
          "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "moe_intermediate_size": 768,
          "intermediate_size": 6144, "num_experts_per_tok": 8, "norm_topk_prob": True,
          "max_position_embeddings": 4096}  # fmt: skip
COUNTS = (16, 64)
NEW, ALIKE = 48, 1.15  # the larger model's token takes so many times the other's at most


def read_bytes(model: Decoder, experts: int, chosen: int) -> tuple[int, int]:
    """Bytes of all weights but the table of tokens, and of those that one token needs."""
    rows = [row for row in architecture.rows(model) if not row.name.startswith("embed.")]
    mixture = sum(row.bytes * row.count for row in rows if ".experts." in row.name)
    whole = sum(row.bytes * row.count for row in rows)
    return whole, whole - mixture + mixture * chosen // experts


def token(model: Decoder) -> float:
    """Seconds of a new token: the median of some after 16."""
    ends = [time.perf_counter()]
    for _step in generate(model, Tokens.from_ids([list(range(5, 21))]), Sampling(max_new_tokens=NEW)):
        ends.append(time.perf_counter())
    return statistics.median(b - a for a, b in list(pairwise(ends))[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    models = {}
    for count in COUNTS:
        facts = facts_of(CONFIG | {"num_experts": count}, lambda _note: None)[1]
        models[count] = decoder(facts, "int8", "cpu", torch.float32)
    rounds = [{count: token(model) for count, model in models.items()} for _ in range(given.rounds + 1)][1:]
    ratio = statistics.median(each[COUNTS[1]] / each[COUNTS[0]] for each in rounds)
    table = []
    for count, model in models.items():
        whole, needed = read_bytes(model, count, CONFIG["num_experts_per_tok"])
        seconds = [each[count] for each in rounds]
        rate = f"{needed / statistics.median(seconds) / 1e9:.1f} GB/s"
        table.append([str(count), f"{whole / 1e6:,.0f} MB", f"{needed / 1e6:,.0f} MB",
                      spread([s * 1e3 for s in seconds], "ms"), rate])  # fmt: skip
    report(
        "experts", "A new token of a mixture", ["experts", "weights", "a token needs", "a token takes", "reads"], table,
        f"{ratio:.2f} times as long with {COUNTS[1]} experts as with {COUNTS[0]}, at most {ALIKE} asked: "
        f"{'yes' if ratio <= ALIKE else 'NO'}. {given.threads} threads, {given.rounds} interleaved rounds.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
