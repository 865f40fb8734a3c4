"""The logit lens: what would the model say next if it stopped after this block?

Each residual stream is read with the model's own last norm and unembedding (nostalgebraist 2020, "interpreting GPT:
the logit lens"). Trust it for the late blocks; early ones speak a language that the unembedding was not trained to
read, and a tuned lens (Belrose et al. 2023, arXiv 2303.08112) can find more there. The last row is the model's own
answer. This file knows values and weights; it does not know text.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.ground.config import DecoderConfig
from cutaway.ground.sites import block_exit
from cutaway.model.decoder import Decoder
from cutaway.model.tap import untapped
from cutaway.trace.trace import Trace


def stream_sites(config: DecoderConfig) -> list[str]:
    """The residual stream on its way: what enters the first block, then what leaves each."""
    return ["blocks.0.resid_pre", *(block_exit(config, layer) for layer in range(config.n_layers))]


def logit_lens(trace: Trace, decoder: Decoder, at_B: Int[Tensor, "B"]) -> Float[Tensor, "L B V"]:
    """Logits read after the embedding and after each block, at one position of each text: [layers + 1, B, V].

    The trace must hold `stream_sites`; raises BadArgument where it does not.
    """
    rows_B = torch.arange(len(at_B), device=at_B.device)
    with torch.inference_mode():
        streams = [trace[site][rows_B, at_B] for site in stream_sites(decoder.config)]
        return torch.stack([decoder.unembed(stream_BD[:, None], untapped)[:, 0] for stream_BD in streams])
