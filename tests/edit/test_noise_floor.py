"""Small causes have small effects in 8 bits: what the default arithmetic adds to an edit, a cache or a padded batch."""

import warnings

import pytest
import torch
from torch import Tensor

from cutaway import Edit
from cutaway.ground.sites import all_sites
from cutaway.lm import LM

TEXTS = ["the cat sat on", "naïve café and the mat", "the dog", "the"]


def kl(full: Tensor, other: Tensor) -> float:
    """The largest KL(full ‖ other) of logits [..., V], in nats."""
    p, q = full.double().log_softmax(-1), other.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).max())


def test_an_edit_that_changes_nothing_moves_no_bit(int8: LM):
    logits = int8.logits(TEXTS)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*changed nothing")
        for site in all_sites(int8.config):
            assert torch.equal(int8.trace(TEXTS, "logits", edits=[Edit.scale(site, 1.0)])["logits"], logits), site


def test_an_edit_of_a_millionth_moves_the_logits_by_less_than_a_millionth(int8: LM):
    tokens = int8.tokenize(TEXTS)
    real = tokens.mask.bool()
    logits, moved = int8.logits(tokens)[real], 0
    for site in all_sites(int8.config):
        edited = int8.trace(tokens, "logits", edits=[Edit.scale(site, 1 + 1e-6)])["logits"][real]
        moved += not torch.equal(edited, logits)
        assert kl(logits, edited) < 1e-6, site
    assert moved > len(all_sites(int8.config)) / 2


@pytest.mark.parametrize("padding", ["left", "right"])
def test_what_is_recorded_in_generation_is_one_pass_over_the_same_ids(int8: LM, padding: str):
    tokens = int8.tokenize(TEXTS, padding_side=padding)  # type: ignore[arg-type]
    written = int8.generate(tokens, sites="*", max_new_tokens=12).trace
    again, real = int8.trace(written.tokens), written.tokens.mask.bool()
    assert list(written) == list(again)
    for site, value in written.items():
        mine, theirs = (
            (each.transpose(1, 2) if site.endswith(("attn.scores", "attn.pattern")) else each)[real]
            for each in (value, again[site])
        )
        finite = theirs.isfinite()
        assert torch.equal(mine.isfinite(), finite), site
        off = (mine - theirs)[finite].norm() / theirs[finite].norm()
        assert off < 1e-4, (site, float(off))


@pytest.mark.parametrize("padding", ["left", "right"])
def test_a_padded_batch_is_its_single_texts(int8: LM, padding: str):
    """Bits may differ where a sum has another order; the text differs only where two tokens tie."""
    tokens = int8.tokenize(TEXTS, padding_side=padding)  # type: ignore[arg-type]
    together = int8.logits(tokens)
    written = int8.generate(tokens, max_new_tokens=16)
    for row, text in enumerate(TEXTS):
        alone = int8.logits(text)[0]
        assert kl(alone, together[row][tokens.mask[row].bool()]) < 1e-6, text
        single = int8.generate(text, max_new_tokens=16)
        for step, (mine, theirs) in enumerate(zip(written.new_ids[row], single.new_ids[0], strict=False)):
            if mine != theirs:
                best = single.steps[step].logits[0].topk(2).values
                assert best[0] - best[1] < 1e-4, (text, step)
                break
