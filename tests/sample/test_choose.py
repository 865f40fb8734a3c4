"""The choice: the line of the draw, its rounding, its dice and its statistics."""

from itertools import islice

import pytest
import torch

from cutaway.sample.choose import dice, draw, greedy, interval
from tests.tiny import noise


def u(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_greedy_takes_the_highest_and_the_lowest_id_of_ties() -> None:
    x = torch.tensor([[0.0, 3.0, 3.0, 1.0], [2.0, 2.0, 2.0, 2.0], [-torch.inf, -5.0, -torch.inf, -6.0]])
    assert greedy(x).tolist() == [1, 0, 1]
    for width in (1023, 1024, 1025, 5000):  # blocks of 1,024
        ties = (noise(4, width, scale=2.0) * 2).round()
        assert torch.equal(greedy(ties), ties.argmax(-1))


@pytest.mark.parametrize(
    ("point", "token"), [(0.0, 2), (0.4999, 2), (0.5, 1), (0.7499, 1), (0.75, 3), (0.9999, 3), (1.0, 3)]
)
def test_draw_walks_down_the_probabilities(point: float, token: int) -> None:
    probs = torch.tensor([[0.0, 0.25, 0.5, 0.25]])
    assert draw(probs, u(point)).tolist() == [token]
    start, end = interval(probs[0], token)
    assert start <= point <= end


def test_draw_among_ties_goes_by_id() -> None:
    probs = torch.full((4, 4), 0.25)
    assert draw(probs, u(0.1, 0.3, 0.6, 0.9)).tolist() == [0, 1, 2, 3]
    assert interval(probs[0], 2) == (0.5, 0.75)


def test_draw_never_takes_probability_zero() -> None:
    short = torch.tensor([[0.3, 0.0, 0.3, 0.0]])  # sums to 0.6, as rounding might in small
    assert draw(short, u(0.99)).tolist() == [2]
    assert interval(short[0], 2)[1] == 1.0
    only = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    assert draw(only.expand(3, 4), u(0.0, 0.5, 1 - 1e-16)).tolist() == [2, 2, 2]


@pytest.mark.parametrize("kind", ["peaked", "flat", "ties", "equal"])
def test_the_short_way_is_the_whole_line(kind: str) -> None:
    spread = {"peaked": 4.0, "flat": 0.1, "ties": 3.0, "equal": 0.0}[kind]
    x = torch.randn(1, 5000, generator=torch.Generator().manual_seed(3)) * spread
    probs = (x.round() if kind == "ties" else x).softmax(-1)
    sorted_probs, ids = probs[0].double().sort(descending=True, stable=True)
    ends = sorted_probs.cumsum(0)
    for point in (0.0, 1e-4, 0.01, 0.3, 0.6, 0.9, 0.99, 0.9999):
        expected = ids[(ends <= point).sum().clamp(max=4999)]
        assert draw(probs, u(point)).item() == expected
        start, end = interval(probs[0], int(expected))
        assert start - 1e-9 <= point <= end + 1e-9


def test_dice_repeat_and_rows_do_not_know_each_other() -> None:
    three, one, other = (list(islice(dice(seed, rows), 5)) for seed, rows in ((7, 3), (7, 1), (8, 1)))
    again = list(islice(dice(7, 3), 5))
    assert all(torch.equal(a, b) for a, b in zip(three, again, strict=True))
    assert [step[0].item() for step in three] == [step[0].item() for step in one]
    assert [step[0].item() for step in one] != [step[0].item() for step in other]
    assert len({value for step in three for value in step.tolist()}) == 15
    assert three[0].dtype == torch.float64


def test_draws_have_the_frequencies_of_the_probabilities() -> None:
    probs = torch.tensor([0.5, 0.02, 0.25, 0.0, 0.13, 0.1])
    draws, batch = 300, 20
    rolls = torch.stack(list(islice(dice(0, batch), draws))).flatten()
    counts = draw(probs.expand(len(rolls), 6), rolls).bincount(minlength=6)
    expected = probs * draws * batch
    assert counts[3] == 0
    live = expected > 0
    chi_square = ((counts - expected)[live] ** 2 / expected[live]).sum()
    assert chi_square < 18.5  # 0.1 % of true draws lie above, with 4 degrees of freedom
    assert rolls.min() >= 0 and rolls.max() < 1
