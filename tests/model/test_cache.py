"""The cache: pieces after one another give one pass's logits, also after a rewind; what does not fit is refused."""

from pathlib import Path

import pytest
import torch

from cutaway.ground.errors import BadArgument
from cutaway.model.cache import Cache
from cutaway.text.pieces import Tokens
from tests.tiny import CONFIGS, batch, decoder, llama, random_decoder

IDS = torch.tensor([[3, 5, 7, 2, 9, 4, 10, 1, 6], [8, 3, 3, 6, 4, 9, 5, 2, 7]])


def piece(first: int, end: int) -> Tokens:
    ids = IDS[:, first:end]
    return Tokens(ids, torch.ones_like(ids), torch.arange(first, end).expand_as(ids))


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_steps_equal_one_pass(name: str, tmp_path: Path):
    model = decoder(name, tmp_path)
    with torch.inference_mode():
        whole = model(Tokens.from_ids(IDS))
        cache = Cache(model.config.n_layers, batch=2, capacity=IDS.shape[1])
        parts = [model(piece(*ends), cache) for ends in ((0, 4), (4, 5), (5, 8), (8, 9))]
    assert (torch.cat(parts, 1) - whole).abs().max() < 1e-4


def test_after_a_rewind_what_was_forgotten_leaves_no_trace():
    model, cache = random_decoder(llama()), Cache(3, batch=2, capacity=9)
    with torch.inference_mode():
        model(batch(IDS[0, :3].tolist(), [8, 3, 3, 1, 1, 1]), cache)  # slots 3 to 5 are padding or other tokens
        cache.rewind(3)
        rest = model(piece(3, 9), cache)
        torch.testing.assert_close(rest, model(Tokens.from_ids(IDS))[:, 3:], atol=1e-4, rtol=1e-4)
    with pytest.raises(BadArgument, match="found rewind to 10; expected 0 to 9"):
        cache.rewind(10)


def test_what_does_not_fit_is_refused():
    cache = Cache(1, batch=2, capacity=4)
    for tokens in (piece(0, 5), Tokens.from_ids([[3]])):
        with pytest.raises(BadArgument, match="expected 2 texts of at most 4"):
            cache.admit(tokens)
    with pytest.raises(BadArgument, match="at least one of each"):
        Cache(1, batch=0, capacity=4)
