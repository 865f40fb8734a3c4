"""What a position attends to: itself and the real tokens before it, whatever the padding and the batch mates."""

from pathlib import Path

import pytest
import torch

from cutaway.text.pieces import Tokens
from tests.tiny import CONFIGS, batch, decoder, llama, random_decoder


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_equals_its_single_rows(name: str, side: str, tmp_path: Path):
    model, rows = decoder(name, tmp_path), [[3, 5, 7], [8, 3, 3, 6, 4, 9]]
    tokens = batch(*rows, side=side)
    with torch.inference_mode():
        logits = model(tokens)
        assert logits.isfinite().all()
        for i, row in enumerate(rows):
            alone = model(Tokens.from_ids(row))[0]
            assert (logits[i][tokens.mask[i].bool()] - alone).abs().max() < 1e-4
        last = model(tokens, last=tokens.last)
    assert torch.allclose(last[:, 0], logits[torch.arange(2), tokens.last], atol=1e-6)


def test_a_later_token_changes_nothing_before_it():
    model = random_decoder(llama())
    with torch.inference_mode():
        one, other = (model(Tokens.from_ids([3, 5, 7, last, 9])) for last in (2, 8))
    assert torch.equal(one[:, :3], other[:, :3]) and not torch.allclose(one[:, 3:], other[:, 3:])
