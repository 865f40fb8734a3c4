"""cutaway in 8 bits, by the generator of steps that every caller of it uses, each step with its logits.

The task may end with an instruction set: "decode avx2".
"""

from pathlib import Path

import torch
from serve import Each, arguments, serve, versions

import cutaway
from cutaway.model import architecture
from cutaway.quant import native
from cutaway.sample.loop import generate
from cutaway.sample.settings import Sampling
from cutaway.text.pieces import Tokens
from cutaway.weights.save import read_manifest

path, threads, task = arguments()
torch.set_num_threads(threads)
native.use_isa(task.partition(" ")[2] or None)
mode = "int8" if path.endswith(".gguf") else read_manifest(Path(path))["mode"]
lm = cutaway.load(path, quantize=mode, device="cpu")


def decode(prompt: list[int], new: int, each: Each) -> None:
    # no eos ids: the loop ends by length only
    for step in generate(lm.decoder, Tokens.from_ids([prompt]), Sampling(max_new_tokens=new)):
        each(int(step.ids[0]))


# of the tables of tokens and positions only a row is read, of the experts those that a token chooses; the head has
# codes of its own
chosen = lm.config.experts_per_token / max(lm.config.n_experts, 1)
read = [row for row in architecture.rows(lm.decoder) if not row.name.startswith("embed.")]
nbytes = sum(row.bytes * row.count * (chosen if ".experts." in row.name else 1) for row in read)
serve(
    decode,
    settings=f"{mode}, {lm.decoder.blocks[0].attn.out.engine}",
    nbytes=int(nbytes),
    runs_on=versions("torch"),
)
