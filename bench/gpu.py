"""What a GPU gives: a new token and prompts, in full precision (bfloat16) and in each mode of 8 bits.

Random weights of the shapes of opt-1.3b and of Llama 3's 8B, made on the GPU: the arithmetic does not depend on them.
Each mode in turn, in one process; peak is torch's own count of the GPU's memory. Without a GPU it says so and ends.
"""

import argparse
import time
from collections.abc import Iterator
from itertools import pairwise

import torch
from random_models import decoder

from cutaway.quant.formats import Mode
from cutaway.sample.loop import generate
from cutaway.sample.published import sampling_of
from cutaway.text.pieces import Tokens
from cutaway.weights.families import facts_of
from measure import report, spread

CONFIGS = {
    "opt-1.3b": {"model_type": "opt", "vocab_size": 50272, "hidden_size": 2048, "num_hidden_layers": 24,
                 "num_attention_heads": 32, "ffn_dim": 8192, "max_position_embeddings": 2048},
    "Llama 3, 8B": {"model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32,
                    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
                    "max_position_embeddings": 8192},
}  # fmt: skip
MODES: tuple[Mode | None, ...] = (None, "int8", "llm-int8")
PROMPTS = (128, 1024)
NEW = 32


def row(name: str, mode: Mode | None) -> list[str]:
    """Milliseconds of a new token after 128, and of each prompt's pass to the first; medians after a warm-up."""
    facts = facts_of(CONFIGS[name], lambda note: None)[1]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model = decoder(facts, mode, "cuda", torch.bfloat16)
    bytes_of_model = torch.cuda.memory_allocated()

    def rounds(length: int, new: int) -> Iterator[list[float]]:
        tokens = Tokens.from_ids(torch.randint(5, 1000, (1, length), device="cuda"))
        for _ in range(6):
            ends = [time.perf_counter()]
            for _step in generate(model, tokens, sampling_of({"max_new_tokens": new}, {})):  # a step waits for the GPU
                ends.append(time.perf_counter())
            yield [(b - a) * 1e3 for a, b in pairwise(ends)]

    cells = [name, "bfloat16" if mode is None else mode]
    each = [time for times in list(rounds(PROMPTS[0], NEW))[1:] for time in times[1:]]
    cells += [spread(each, "ms")]
    cells += [spread([times[0] for times in list(rounds(length, 1))[2:]], "ms") for length in PROMPTS]
    return [*cells, f"{bytes_of_model / 1e9:.2f} GB", f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB"]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    if not torch.cuda.is_available():
        print("torch sees no GPU here: nothing was measured")
        return
    rows = [row(name, mode) for name in CONFIGS for mode in MODES]
    header = ["shape", "mode", "a new token", *(f"prompt of {length}" for length in PROMPTS), "model", "peak"]
    report("gpu", f"On a GPU ({torch.cuda.get_device_name()})", header, rows)


if __name__ == "__main__":
    main()
