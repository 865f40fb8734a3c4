"""Each filter against transformers' class of that meaning, and the chain of them against transformers' order."""

import pytest
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from cutaway.sample import filters
from cutaway.sample.settings import Sampling
from tests.tiny import build, gpt2

INF = torch.inf


def logits(rows: int, width: int, kind: str) -> torch.Tensor:
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(width + rows)) * 3
    if kind == "ties":
        return x.round()
    if kind == "half":
        return x.bfloat16().float()
    return torch.where(x > 2, -INF, x) if kind == "holes" else x


def same_but_for_ties(mine: torch.Tensor, theirs: torch.Tensor, x: torch.Tensor) -> None:
    """The same logits stay; which of several equal ones is ours to say, as theirs is an unstable sort."""
    same(mine.sort(-1).values, theirs.sort(-1).values)
    stay = mine > -INF
    same(mine[stay], x[stay])
    for mine_V, theirs_V, x_V in zip(mine, theirs, x, strict=True):
        cut = mine_V[mine_V > -INF].min()
        same(mine_V[x_V != cut], theirs_V[x_V != cut])
        tied = mine_V[x_V == cut] > -INF
        assert tied.tolist() == sorted(tied.tolist(), reverse=True)  # the lowest ids stay


CASES = [(rows, width, kind) for rows in (1, 3) for width in (4, 1000) for kind in ("plain", "ties", "half", "holes")]


def same(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(("rows", "width", "kind"), CASES)
def test_each_filter_is_transformers_own(rows: int, width: int, kind: str) -> None:
    x = logits(rows, width, kind)
    before = x.clone()
    for value in (0.1, 0.7, 3.0):
        same(filters.temperature(x, value), TemperatureLogitsWarper(value)(None, x))
    for k in (1, 2, 3, 50, 5000):
        same(filters.top_k(x, k), TopKLogitsWarper(k)(None, x))
    for p in (1e-6, 0.1, 0.5, 0.75, 0.9, 0.99, 0.9999, 1.0):
        same_but_for_ties(filters.top_p(x, p), TopPLogitsWarper(p)(None, x), x)
    for p in (0.0, 0.01, 0.5, 1.0):
        same(filters.min_p(x, p), MinPLogitsWarper(p)(None, x))
    same(x, before)  # nothing was written in place


@pytest.mark.parametrize("penalty", [0.5, 1.3, 4.0])
def test_repetition_penalty_is_transformers_own_where_nothing_is_padded(penalty: float) -> None:
    x = logits(3, 20, "plain")
    ids = torch.tensor([[1, 1, 2, 19], [0, 5, 5, 5], [7, 8, 9, 10]])
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, x)
    same(filters.repetition_penalty(x, ids, torch.ones_like(ids), penalty), theirs)


def test_repetition_penalty_leaves_padding_alone_on_either_side() -> None:
    x = torch.tensor([[1.0, 2.0, -3.0, 4.0]] * 2)
    ids = torch.tensor([[0, 0, 2], [3, 0, 0]])
    mask = torch.tensor([[0, 0, 1], [1, 0, 0]])
    same(
        filters.repetition_penalty(x, ids, mask, 2.0),
        torch.tensor([[1.0, 2.0, -6.0, 4.0], [1.0, 2.0, -3.0, 2.0]]),
    )
    # A pad id that is also in the text counts once, for its real occurrence.
    same(
        filters.repetition_penalty(x[:1], torch.tensor([[0, 0, 0]]), torch.tensor([[0, 0, 1]]), 2.0),
        torch.tensor([[0.5, 2.0, -3.0, 4.0]]),
    )


@pytest.mark.parametrize("p", [0.25, 0.5, 0.75, 0.9])
def test_top_p_of_equal_logits_cuts_among_ties_as_transformers(p: float) -> None:
    for width in (4, 10, 1000):
        x = torch.zeros(2, width)
        same_but_for_ties(filters.top_p(x, p), TopPLogitsWarper(p)(None, x), x)


@pytest.mark.parametrize("kind", ["plain", "half", "flat", "ties", "one"])
def test_top_p_of_a_wide_vocabulary_needs_no_sort_and_is_the_same(kind: str) -> None:
    spread = {"plain": 3.0, "half": 3.0, "flat": 0.01, "ties": 2.0, "one": 0.0}[kind]
    x = torch.randn(2, 20000, generator=torch.Generator().manual_seed(0)) * spread
    x = x.round() if kind == "ties" else x.bfloat16().float() if kind == "half" else x
    if kind == "one":
        x = x.scatter(1, torch.tensor([[7], [9]]), 30.0)
    for p in (0.05, 0.3, 0.8, 0.95):
        same_but_for_ties(filters.top_p(x, p), TopPLogitsWarper(p)(None, x), x)


def test_the_short_way_of_top_p_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 20000, generator=torch.Generator().manual_seed(1)) * 5
    expected = TopPLogitsWarper(0.8)(None, x)
    monkeypatch.setattr(filters, "_nucleus_by_sorting", None)
    same(filters.top_p(x, 0.8), expected)


SETTINGS = [
    {},
    {"do_sample": True},
    {"repetition_penalty": 1.5},
    {"do_sample": True, "top_k": 0},
    {"do_sample": True, "temperature": 0.7, "top_p": 0.8},
    {"do_sample": True, "temperature": 1.7, "top_k": 7, "top_p": 0.6, "min_p": 0.2, "repetition_penalty": 1.2},
    {"do_sample": True, "temperature": 0.5, "top_k": 0, "top_p": 0.95, "min_p": 0.05},
]


@pytest.mark.parametrize("asked", SETTINGS)
@pytest.mark.parametrize("kind", ["plain", "ties"])
def test_the_chain_is_transformers_generate(asked: dict, kind: str) -> None:
    model = build(gpt2(vocab_size=1000, bos_token_id=None, eos_token_id=None, pad_token_id=None))
    generation = GenerationConfig(**{"top_k": 50} | asked)  # the default that transformers fills in while it runs
    theirs = model._get_logits_processor(generation, input_ids_seq_length=4, logits_processor=LogitsProcessorList())
    x, ids = logits(2, 1000, kind), torch.tensor([[1, 2, 3, 4], [999, 0, 0, 5]])
    done = filters.stages(x, Sampling(**asked), ids, torch.ones_like(ids))
    expected = theirs(ids, x.clone())
    same(done[-1][1].sort(-1).values, expected.sort(-1).values)
    if kind == "plain":
        same(done[-1][1], expected)
    assert len(done) == len(theirs) + 1
    same(done[0][1], x)


def test_stages_work_in_float32_whatever_the_model_gives() -> None:
    x = logits(1, 100, "half").bfloat16()
    for _, logits_BV in filters.stages(x, Sampling(do_sample=True, temperature=0.7, top_p=0.9), None, None):
        assert logits_BV.dtype == torch.float32
