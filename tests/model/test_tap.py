"""Taps in a chain: the value flows from left to right, and the chain wants and changes what any of them does."""

import torch
from torch import Tensor

from cutaway.model.tap import Chain, Untapped, untapped


class Doubling(Untapped):
    def __call__(self, name: str, value: Tensor) -> Tensor:
        return value * 2 if name == "logits" else value

    def changes(self, *names: str) -> bool:
        return "logits" in names


class Keeping(Untapped):
    def __init__(self) -> None:
        self.recorded: list[float] = []

    def __call__(self, name: str, value: Tensor) -> Tensor:
        self.recorded.append(float(value))
        return value

    def wants(self, *names: str) -> bool:
        return "logits" in names


def test_left_to_right():
    before, after = Keeping(), Keeping()
    chain = Chain(before, Doubling(), after)
    assert float(chain("logits", torch.tensor(3.0))) == 6
    assert (before.recorded, after.recorded) == ([3], [6])
    assert chain.wants("embed.token", "logits") and not chain.wants("embed.token")
    assert chain.changes("logits") and not chain.changes("embed.token")
    assert not untapped.wants("logits") and not untapped.changes("logits")
