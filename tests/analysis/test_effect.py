"""The effect of edits on the next token: the numbers of two passes."""

import warnings

import pytest

from cutaway import Edit
from cutaway.lm import LM

TEXTS = ["the cat sat on", "the dog"]


def test_the_effect_is_that_of_two_passes(lm: LM):
    edits = [Edit.zero("blocks.0.mlp_out")]
    found = lm.effect(TEXTS, edits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sides = [lm.trace(text, "logits", edits=each)["logits"][0, -1] for text in TEXTS for each in ((), edits)]
    for row in range(2):
        log_p, log_q = (side.double().log_softmax(-1) for side in sides[2 * row : 2 * row + 2])
        assert found.kl[row] == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum()), abs=1e-5)
        assert found.after[row][0][0] == int(log_q.argmax())
        assert found.before[row][0][1] == pytest.approx(float(log_p.exp().max()), abs=1e-5)
