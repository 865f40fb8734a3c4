"""The whole choice: the step that generate makes, made again from its logits; what each filter removed; the curve."""

import math

import pytest
import torch

from cutaway.sample.distribution import as_data, choice, curve, filtered, summary
from cutaway.sample.loop import generate
from cutaway.sample.settings import Sampling
from tests.tiny import VOCAB, batch, llama, random_decoder

SETTINGS = [
    Sampling(max_new_tokens=6),
    Sampling(do_sample=True, seed=3, temperature=2.0, top_k=8, top_p=0.9, min_p=0.02, max_new_tokens=6),
    Sampling(do_sample=True, seed=5, top_k=0, repetition_penalty=1.7, max_new_tokens=6),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_choice_is_the_step_of_generate(settings: Sampling) -> None:
    seen = [3, 5, 7]
    for step in generate(random_decoder(llama()), batch(seen), settings):
        made = choice(step.logits[0], settings, index=step.index, seen=torch.tensor(seen))
        assert torch.equal(made.ids, step.ids) and (made.u is None or torch.equal(made.u, step.u))  # type: ignore[arg-type]
        pairs = zip(made.stages(), step.stages(), strict=True)
        assert all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)
        assert made.window(0, VOCAB) == step.top(VOCAB) and made.window(4, 3) == step.top(VOCAB)[4:7]
        seen.append(int(step.ids[0]))


def test_what_each_filter_removed_is_counted() -> None:
    logits = torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0, -torch.inf])
    made = choice(logits, Sampling(do_sample=True, seed=0, top_k=3, top_p=0.8))
    rows, probs = filtered(made), logits.double().softmax(-1)
    assert [(row.name, row.removed, row.left) for row in rows] == [("logits", 0, 5), ("top_k", 2, 3), ("top_p", 1, 2)]
    assert math.isclose(rows[1].removed_prob, float(probs[3:].sum()), rel_tol=1e-6)
    assert math.isclose(rows[2].removed_prob, float(probs[2] / probs[:3].sum()), rel_tol=1e-6)
    assert math.isclose(rows[2].kept_prob, float(probs[:2].sum()), rel_tol=1e-6)
    assert as_data(made)["vocab"] == 6 and len(as_data(made)["final_curve"]["rank"]) == 2
    assert summary(made)[2] == int((logits > logits[made.ids[0]]).sum()) and math.isfinite(summary(made)[1])


def test_a_curve_has_all_first_ranks_and_the_last() -> None:
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    found, probs = curve(logits), logits.double().softmax(-1).sort(descending=True).values
    assert found.rank[:20] == list(range(1, 21)) and found.rank[-1] == 5000 and len(found.rank) <= 512
    at = torch.tensor(found.rank) - 1
    assert torch.allclose(torch.tensor(found.cumulative, dtype=torch.float64), probs.cumsum(0)[at])
    assert torch.allclose(torch.tensor(found.logprob, dtype=torch.float64), probs.log()[at])
