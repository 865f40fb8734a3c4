"""opt-125m and opt-350m at their real sizes, with random weights: logits and residuals equal transformers'."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway.ground.sites import block_exit
from cutaway.text.pieces import Tokens
from cutaway.trace.pass_recorder import Recorder
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.load import load_decoder
from tests.tiny import block_outputs, build, opt

REAL: dict[str, Any] = {"vocab_size": 50272, "max_position_embeddings": 2048}
SHAPES = {
    "opt-125m": opt(**REAL, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, ffn_dim=3072),
    "opt-350m": opt(
        **REAL, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, ffn_dim=4096,
        word_embed_proj_dim=512, do_layer_norm_before=False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_the_real_shape_equals_transformers(name: str, tmp_path: Path):
    theirs = build(SHAPES[name], scale=0.03)
    theirs.save_pretrained(tmp_path)
    decoder = load_decoder(open_checkpoint(tmp_path), dtype=torch.float32, device="cpu")
    ids = torch.tensor([[2, 133, 2119, 6219, 23602, 13855, 81, 5, 22414, 2335]])
    exits = [block_exit(decoder.config, i) for i in range(decoder.config.n_layers)]
    recorder = Recorder(exits)
    with torch.inference_mode(), block_outputs(theirs) as residuals:
        logits, expected = decoder(Tokens.from_ids(ids), tap=recorder), theirs(ids).logits
    assert (logits - expected).abs().max() < 1e-4
    assert logits.std() > 0.1
    for site, residual in zip(exits, residuals, strict=True):
        assert (recorder.parts[site][0] - residual).abs().max() < 1e-4, site
