"""Sampling: the settings of generation, checked once, under transformers' names.

It knows no logits and no model, and does not choose a token.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import no_type_check

import torch

from cutaway.ground.errors import BadArgument
from cutaway.ground.whole import number, require_whole

NEW_TOKENS = 50  # where neither length is given; transformers' 20 cuts most answers off


@no_type_check  # its own checks raise BadArgument: the tests' beartype would come before them
@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen and when a text is finished. Names and meanings are transformers' (5.23).

    max_new_tokens: tokens added to each text; 50 if max_length is not given either.
    max_length: tokens of prompt and answer; max_new_tokens wins where both are given. Padding does not count
        (in transformers it does), so a text has the same length in a batch as by itself.
    do_sample: draw from the probabilities; else take the highest logit, without temperature, top_k, top_p and min_p.
    temperature: divides the logits. top_k: keep the k highest; 0 or None keeps all; 50 as in transformers.
    top_p: keep the fewest tokens whose probabilities sum to top_p or more; 1 keeps all.
    min_p: keep tokens at least min_p times as probable as the first; None keeps all.
    repetition_penalty: above 1, tokens already in the text lose; below 1, they gain. Works without do_sample too.
    seed: of the draws. None takes a fresh one from torch's global generator, so torch.manual_seed governs it.
    stop_strings: a text is finished when its new text holds one of these, which it ends with.

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
        """The most tokens that may follow a prompt of this length. Raises BadArgument where max_length leaves none."""
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
        """The same settings, with a fresh seed where a draw needs one and none is given: any run can be repeated."""
        if self.seed is not None or not self.do_sample:
            return self
        return replace(self, seed=int(torch.randint(2**31, (), device="cpu")))

    def as_data(self) -> dict[str, object]:
        """The settings by name, JSON-able."""
        data: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        return data | {"stop_strings": list(self.stop_strings)}

    def __str__(self) -> str:
        """What chooses the token, in the order of application: "temperature=0.7, top_k=50, seed=0"; or "greedy"."""
        penalty = [f"repetition_penalty={self.repetition_penalty}"] if self.repetition_penalty != 1 else []
        if not self.do_sample:
            return ", ".join(["greedy", *penalty])
        active = {
            "temperature": self.temperature != 1,
            "top_k": bool(self.top_k),
            "top_p": self.top_p < 1,
            "min_p": self.min_p is not None,
            "seed": self.seed is not None,
        }
        return ", ".join([*penalty, *(f"{name}={getattr(self, name)}" for name, on in active.items() if on)])

    def _check_lengths(self) -> None:
        long = "pass for example {name}=50"
        rules = {
            "max_new_tokens": (1, long),
            "max_length": (1, long),
            "top_k": (0, "pass for example top_k=50, or 0 to keep every token"),
            "seed": (0, "pass for example seed=0, or leave it out for a fresh one"),
        }
        for name, (least, do) in rules.items():
            value = getattr(self, name)
            if value is not None:  # stored as Python's own int, which JSON takes
                object.__setattr__(self, name, require_whole(name, value, least, do.format(name=name)))

    def _check_numbers(self) -> None:
        mass = "a number above 0 and at most 1"
        cold = "pass for example temperature=0.7, or do_sample=False for the highest logit each time"
        penalty = "pass for example repetition_penalty=1.1, or 1.0 for none"
        self._check_number("temperature", lambda x: 0 < x < math.inf, "a finite number above 0", cold)
        self._check_number("top_p", lambda x: 0 < x <= 1, mass, "pass for example top_p=0.9")
        if self.min_p is not None:
            self._check_number("min_p", lambda x: 0 <= x <= 1, "a number from 0 to 1", "pass for example min_p=0.05")
        self._check_number("repetition_penalty", lambda x: 0 < x < math.inf, "a finite number above 0", penalty)

    def _check_number(self, name: str, fits: Callable[[float], bool], expected: str, do: str) -> None:
        value = getattr(self, name)
        if not fits(number(value)):
            raise BadArgument(f"{name}={value!r}", expected, do)
        if not isinstance(value, (int, float)):
            object.__setattr__(self, name, number(value))
