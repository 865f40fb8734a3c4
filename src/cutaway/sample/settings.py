"""Sampling: what a user asks of generation, checked once, in transformers' own words.

It holds wishes as data: it knows no logits and no model, and does not choose a token.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import no_type_check

import torch

from cutaway.ground.errors import BadArgument

NEW_TOKENS = 50  # where neither length is given; transformers' 20 cuts most answers off


@no_type_check  # it checks its values itself, in sentences: the tests' beartype would come before them
@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen and when a text is over. Names and meanings are transformers' (5.23).

    max_new_tokens: tokens added to each text; 50 if max_length is not given either.
    max_length: tokens of prompt and answer together; max_new_tokens wins where both are given. A text's own tokens
        count, not its padding (transformers counts padding too), so a text is as long in a batch as alone.
    do_sample: draw from the probabilities; else take the highest logit, and temperature, top_k, top_p, min_p rest.
    temperature: divides the logits. top_k: keep the k highest; 0 or None keeps all; 50 as in transformers.
    top_p: keep the fewest tokens whose probabilities sum to top_p or more; 1 keeps all.
    min_p: keep tokens at least min_p times as probable as the first; None keeps all.
    repetition_penalty: above 1, tokens already in the text lose; below 1, they gain. Works without do_sample too.
    seed: of the draws. None takes a fresh one from torch's global generator, so torch.manual_seed governs it.
    stop_strings: a text is over when its new tokens, as text, hold one of these. The text keeps it.

    Raises BadArgument for a value that no run could use.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float = 1.0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.stop_strings, (str, list)):  # as transformers takes them
            strings = (self.stop_strings,) if isinstance(self.stop_strings, str) else tuple(self.stop_strings)
            object.__setattr__(self, "stop_strings", strings)
        self._check_lengths()
        self._check_numbers()
        if not isinstance(self.do_sample, bool):
            raise BadArgument(f"do_sample={self.do_sample!r}", "True or False", "pass do_sample=True to draw")
        if not isinstance(self.stop_strings, tuple) or not all(isinstance(s, str) and s for s in self.stop_strings):
            found, do = f"stop_strings={self.stop_strings!r}", 'pass for example stop_strings=["\\n"]'
            raise BadArgument(found, "texts of at least one character", do)

    def new_tokens(self, prompt_length: int) -> int:
        """The most tokens that may follow a prompt of so many. Raises BadArgument where max_length leaves none."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        if self.max_length is None:
            return NEW_TOKENS
        if self.max_length <= prompt_length:
            found = f"max_length={self.max_length} with a prompt of {prompt_length} tokens"
            expected = f"max_length above {prompt_length}, as it counts the prompt too"
            raise BadArgument(found, expected, "raise max_length, or pass max_new_tokens instead")
        return self.max_length - prompt_length

    def seeded(self) -> "Sampling":
        """The same with a seed: its own, or where a draw needs one and has none, a fresh one. So any run repeats."""
        if self.seed is not None or not self.do_sample:
            return self
        return replace(self, seed=int(torch.randint(2**31, ())))

    def as_data(self) -> dict[str, object]:
        """The settings by name, JSON-able."""
        data: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        return data | {"stop_strings": list(self.stop_strings)}

    def __str__(self) -> str:
        """What chooses the token, in the order of work: "temperature=0.7, top_k=50, seed=0"; or "greedy"."""
        penalty = [f"repetition_penalty={self.repetition_penalty}"] if self.repetition_penalty != 1 else []
        if not self.do_sample:
            return ", ".join(["greedy", *penalty])
        asked = {
            "temperature": self.temperature != 1,
            "top_k": bool(self.top_k),
            "top_p": self.top_p < 1,
            "min_p": self.min_p is not None,
            "seed": self.seed is not None,
        }
        return ", ".join([*penalty, *(f"{name}={getattr(self, name)}" for name, on in asked.items() if on)])

    def _check_lengths(self) -> None:
        for name in ("max_new_tokens", "max_length"):
            if getattr(self, name) is not None:
                _require_whole(name, getattr(self, name), 1, f"pass for example {name}=50")
        if self.top_k is not None:
            _require_whole("top_k", self.top_k, 0, "pass for example top_k=50, or 0 to keep every token")
        if self.seed is not None:
            _require_whole("seed", self.seed, 0, "pass for example seed=0, or leave it out for a fresh one")

    def _check_numbers(self) -> None:
        cold = "pass for example temperature=0.7, or do_sample=False for the highest logit each time"
        warm = 0 < _number(self.temperature) < math.inf
        _require("temperature", self.temperature, warm, "a finite number above 0", cold)
        mass = "a number above 0 and at most 1"
        _require("top_p", self.top_p, 0 < _number(self.top_p) <= 1, mass, "pass for example top_p=0.9")
        if self.min_p is not None:
            share = "a number from 0 to 1"
            _require("min_p", self.min_p, 0 <= _number(self.min_p) <= 1, share, "pass for example min_p=0.05")
        fits = 0 < _number(self.repetition_penalty) < math.inf
        do = "pass for example repetition_penalty=1.1, or 1.0 for none"
        _require("repetition_penalty", self.repetition_penalty, fits, "a finite number above 0", do)


def _number(value: object) -> float:
    """The value as a number, or NaN, which fits no range, where it is none (True is none here)."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def _require(name: str, value: object, fits: bool, expected: str, do: str) -> None:
    if not fits:
        raise BadArgument(f"{name}={value!r}", expected, do)


def _require_whole(name: str, value: object, least: int, do: str) -> None:
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= least
    _require(name, value, fits, f"a whole number, {least} or above", do)
