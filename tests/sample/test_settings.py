"""What Sampling refuses and in which words, its defaults, its lengths, its seed."""

import math

import pytest
import torch
from transformers import GenerationConfig

from cutaway.ground.errors import BadArgument
from cutaway.sample.settings import Sampling

BAD = [
    *({name: value} for name in ("max_new_tokens", "max_length") for value in (0, -1, 1.5, True, "9")),
    *({"temperature": value} for value in (0, 0.0, -1.0, math.nan, math.inf, True, "0.7", None)),
    *({"top_k": value} for value in (-1, 2.0, True, "5")),
    *({"top_p": value} for value in (0, 0.0, -0.1, 1.01, math.nan, True, "1", None)),
    *({"min_p": value} for value in (-0.1, 1.1, math.nan, True, "0")),
    *({"repetition_penalty": value} for value in (0, -1.0, math.nan, math.inf, True, None)),
    *({"seed": value} for value in (-1, 1.0, True, "0")),
    *({"stop_strings": value} for value in ("", ("a", ""), (1,), 5)),
    *({"do_sample": value} for value in (1, "yes", None)),
]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_refused_by_name_and_value(bad: dict) -> None:
    with pytest.raises(BadArgument) as caught:
        Sampling(**bad)
    (name, value) = next(iter(bad.items()))
    assert name in caught.value.found
    assert name == "stop_strings" or caught.value.found == f"{name}={value!r}"
    assert caught.value.expected and caught.value.do


def test_the_sentence() -> None:
    with pytest.raises(BadArgument) as caught:
        Sampling(top_p=0)
    sentence = "found top_p=0; expected a number above 0 and at most 1; pass for example top_p=0.9."
    assert str(caught.value) == sentence


def test_defaults_are_transformers() -> None:
    theirs, mine = GenerationConfig._get_default_generation_params(), Sampling()
    for name in ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty"):
        assert getattr(mine, name) == theirs[name], name


def test_lengths() -> None:
    assert Sampling().new_tokens(7) == 50
    assert Sampling(max_length=20).new_tokens(7) == 13
    assert Sampling(max_length=5, max_new_tokens=9).new_tokens(7) == 9
    with pytest.raises(BadArgument, match="max_length=7 with a prompt of 7 tokens"):
        Sampling(max_length=7).new_tokens(7)


def test_seed_is_recorded_where_something_is_drawn() -> None:
    torch.manual_seed(1)
    first, second = Sampling(do_sample=True).seeded(), Sampling(do_sample=True).seeded()
    torch.manual_seed(1)
    assert first.seed is not None and first.seed != second.seed
    assert Sampling(do_sample=True).seeded() == first
    assert Sampling(do_sample=True, seed=3).seeded().seed == 3
    assert Sampling().seeded().seed is None


def test_stop_strings_as_transformers_takes_them() -> None:
    assert Sampling(stop_strings="end").stop_strings == ("end",)  # type: ignore[arg-type]
    assert Sampling(stop_strings=["a", "b"]).stop_strings == ("a", "b")  # type: ignore[arg-type]


def test_words() -> None:
    assert str(Sampling()) == "greedy"
    assert str(Sampling(repetition_penalty=1.1)) == "greedy, repetition_penalty=1.1"
    asked = Sampling(do_sample=True, temperature=0.7, top_p=0.8, seed=0)
    assert str(asked) == "temperature=0.7, top_k=50, top_p=0.8, seed=0"
