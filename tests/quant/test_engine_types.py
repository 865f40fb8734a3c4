"""Every model type in 8 bits, a token at a time: the engine gives the bits of the readable blocks, whether it computes
them natively or calls them; which it computes natively is said in docs/model-types.md."""

from pathlib import Path

import pytest
import torch

from cutaway.model.cache import Cache
from cutaway.model.decoder import Decoder, run_blocks
from cutaway.text.pieces import Tokens
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.load import load_decoder
from tests.model_types import OPTIONS, drawn
from tests.rules.model_types import NATIVE
from tests.tiny import batch, build

TOKENS = batch([3, 5, 7, 2, 9, 4, 10, 1, 6], [8, 3, 3, 6, 4], side="left")
UNPADDED = batch([3, 5, 7, 2, 9, 4, 10, 1, 6])
# Halves of the gated matrix that fill panels, and a window that a text outgrows.
OVER = {"intermediate_size": 48, "sliding_window": 6, "use_sliding_window": True, "max_window_layers": 1}


def decoded(decoder: Decoder, tokens: Tokens) -> tuple[torch.Tensor, int]:
    """The logits of new tokens, one at a time after the first three, and how many blocks are computed natively."""
    cache, parts = Cache(decoder.config.n_layers, len(tokens.ids), 9), []
    with torch.inference_mode():
        for span in (slice(0, 3), *(slice(i, i + 1) for i in range(3, 9))):
            one = Tokens(*(getattr(tokens, name)[:, span] for name in ("ids", "mask", "positions")))
            parts.append(decoder(one, cache)[:, -1])
    plan = getattr(decoder.run_blocks, "plan", None)
    return torch.stack(parts), 0 if plan is None else sum(plan.supported)


@pytest.mark.parametrize("model_type", OPTIONS)
def test_the_engine_gives_the_bits_of_the_readable_blocks(model_type: str, tmp_path: Path):
    over = {name: value for name, value in OVER.items() if name in OPTIONS[model_type]}
    build(drawn(model_type, 0, **over)).save_pretrained(tmp_path)
    decoder = load_decoder(open_checkpoint(tmp_path), dtype=torch.float32, device="cpu", quantize="int8")
    engine = decoder.run_blocks
    for tokens in (TOKENS, UNPADDED):
        decoder.run_blocks = engine
        one, native = decoded(decoder, tokens)
        assert native == (decoder.config.n_layers if model_type in NATIVE else 0)
        decoder.run_blocks = run_blocks
        assert torch.equal(one, decoded(decoder, tokens)[0])
