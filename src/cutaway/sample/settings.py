"""Sampling: the settings of generation, checked once, under transformers' names.

It knows no logits and no model, and does not choose a token.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, no_type_check

import torch

from cutaway.ground.errors import BadArgument
from cutaway.ground.whole import number, require_whole

NEW_TOKENS = 50  # where neither length is given; transformers' 20 cuts most answers off


class About(NamedTuple):
    """What help and errors say of a setting: the values that it may have, and what it does."""

    limits: str
    effect: str


ABOVE_0 = "a finite number above 0"
ABOUT = {  # in the order of Sampling's fields
    "repetition_penalty": About(
        ABOVE_0,
        "divides the positive logits of tokens already in the text and multiplies their negative ones: above 1 they "
        "lose, below 1 they gain. Acts without do_sample too.",
    ),
    "do_sample": About(
        "True or False",
        "True draws the token from the probabilities. False takes the highest logit: temperature, top_k, top_p, min_p "
        "and seed then have no effect.",
    ),
    "temperature": About(
        ABOVE_0, "divides the logits: below 1 sharpens the distribution, above 1 flattens it; 1 changes nothing."
    ),
    "top_k": About(
        "a whole number, 0 or above", "keeps the k highest logits, and those that equal the k-th; 0 or None keeps all."
    ),
    "top_p": About(
        "a number above 0 and at most 1",
        "keeps the fewest of the most probable tokens whose probabilities sum to top_p or more; 1 keeps all.",
    ),
    "min_p": About(
        "a number from 0 to 1",
        "keeps tokens at least min_p times as probable as the most probable one; None keeps all.",
    ),
    "seed": About(
        "a whole number, 0 or above",
        "of the draws: the same seed draws the same text. None takes a fresh one from torch's global generator, which "
        "torch.manual_seed governs; the result's settings.seed tells it.",
    ),
    "stop_strings": About(
        "texts of at least one character",
        "a text ends once its new part holds one of these (and ends with it); one string or several.",
    ),
    "max_new_tokens": About(
        "a whole number, 1 or above", f"tokens added to each text; {NEW_TOKENS} where max_length is not given either."
    ),
    "max_length": About(
        "a whole number, 1 or above",
        "tokens of prompt and new text together, without padding; max_new_tokens wins where both are given.",
    ),
}


@no_type_check  # its own checks raise BadArgument: the tests' beartype would come before them
@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen and when a text is finished: the settings in the order in which they act.

    Names and meanings are transformers' (5.23), with one difference: padding does not count toward max_length, so a
    text has the same length in a batch as by itself. ABOUT says what each does. Raises BadArgument for a value that no
    run could use.
    """

    repetition_penalty: float = 1.0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float = 1.0
    min_p: float | None = None
    seed: int | None = None
    stop_strings: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop_strings, (str, list)):  # as transformers takes them
            strings = (self.stop_strings,) if isinstance(self.stop_strings, str) else tuple(self.stop_strings)
            object.__setattr__(self, "stop_strings", strings)
        self._check_lengths()
        self._check_numbers()
        if not isinstance(self.do_sample, bool):
            raise BadArgument(f"do_sample={self.do_sample!r}", ABOUT["do_sample"].limits, "pass do_sample=True to draw")
        many = isinstance(self.stop_strings, tuple)
        for each in self.stop_strings if many else (self.stop_strings,):
            if not isinstance(each, str) or not each or not many:
                do = 'pass for example stop_strings=["\\n"]'
                raise BadArgument(f"stop_strings={each!r}", ABOUT["stop_strings"].limits, do)

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
        cold = "pass for example temperature=0.7, or do_sample=False for the highest logit each time"
        penalty = "pass for example repetition_penalty=1.1, or 1.0 for none"
        self._check_number("temperature", lambda x: 0 < x < math.inf, cold)
        self._check_number("top_p", lambda x: 0 < x <= 1, "pass for example top_p=0.9")
        if self.min_p is not None:
            self._check_number("min_p", lambda x: 0 <= x <= 1, "pass for example min_p=0.05")
        self._check_number("repetition_penalty", lambda x: 0 < x < math.inf, penalty)

    def _check_number(self, name: str, fits: Callable[[float], bool], do: str) -> None:
        value = getattr(self, name)
        if not fits(number(value)):
            raise BadArgument(f"{name}={value!r}", ABOUT[name].limits, do)
        if not isinstance(value, (int, float)):
            object.__setattr__(self, name, number(value))
