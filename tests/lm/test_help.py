"""help() of the front door is complete: every setting and every argument, with names, order, defaults and ranges."""

import inspect
import re
from dataclasses import fields

import pytest

import cutaway
from cutaway.generating import ANSWER_TOKENS
from cutaway.ground.errors import BadArgument
from cutaway.lm import LM
from cutaway.sample.keywords import Settings
from cutaway.sample.names import INSTEAD, RENAMED
from cutaway.sample.settings import ABOUT, Sampling

DEFAULTS = {field.name: field.default for field in fields(Sampling)}
# A value outside each range, one on each side of its edges: the sentence that refuses it states the range
OUTSIDE = {
    "repetition_penalty": (0, "a"), "do_sample": (1, "yes"), "temperature": (0, -1.0), "top_k": (-1, 0.5),
    "top_p": (0, 1.01), "min_p": (-0.01, 1.01), "seed": (-1, "0"), "stop_strings": ("", ("a", "")),
    "max_new_tokens": (0, 1.5), "max_length": (0, True),
}  # fmt: skip
EDGES = {
    "repetition_penalty": 1e-6, "do_sample": True, "temperature": 1e-6, "top_k": 0, "top_p": 1, "min_p": 0, "seed": 0,
    "stop_strings": "a", "max_new_tokens": 1, "max_length": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", ["generate", "stream", "chat", "recording"])
def test_help_lists_every_setting_in_the_order_of_sampling(name: str):
    expected = DEFAULTS | ({"max_new_tokens": ANSWER_TOKENS} if name == "chat" else {})
    parameters = inspect.signature(getattr(LM, name)).parameters
    shown = {each: parameters[each].default for each in parameters if each in DEFAULTS}
    assert list(shown.items()) == list(expected.items())
    assert all(parameters[each].kind is inspect.Parameter.KEYWORD_ONLY for each in DEFAULTS)
    assert "settings" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    document = inspect.getdoc(getattr(LM, name)) or ""
    assert max(map(len, document.splitlines())) <= 76
    entries = " ".join(document.split())
    places = [entries.index(f"{each} = {default!r} ({ABOUT[each].limits}):") for each, default in expected.items()]
    assert places == sorted(places) and all(about.effect in entries for about in ABOUT.values())


def test_the_keywords_are_the_fields_and_the_stages_act_in_their_order():
    import torch

    from cutaway.sample.filters import stages

    assert list(Settings.__annotations__) == list(ABOUT) == list(DEFAULTS)
    ids = torch.tensor([[1]])
    every = Sampling(repetition_penalty=1.1, do_sample=True, temperature=0.5, top_k=3, top_p=0.9, min_p=0.1)
    acting = [name for name, _ in stages(torch.arange(8.0)[None], every, ids, ids)][1:]
    assert acting == [name for name in DEFAULTS if name in acting] and len(acting) == 5


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_range_in_help_is_the_one_that_is_held(name: str):
    for value in OUTSIDE[name]:
        with pytest.raises(BadArgument) as caught:
            Sampling(**{name: value})
        assert caught.value.expected == ABOUT[name].limits
    Sampling(**{name: EDGES[name]})


@pytest.mark.parametrize("function", [cutaway.load, LM.trace, LM.generate, LM.stream, LM.chat, LM.tokenize, LM.plan])
def test_every_argument_is_explained(function: object):
    document = inspect.getdoc(function) or ""
    for name in set(inspect.signature(function).parameters) - {"self"}:  # type: ignore[arg-type]
        assert re.search(rf"\b{name}\b[^.]*(:| = )", document), name


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"max_tokens": 5}, "found max_tokens=5; expected max_new_tokens, its name here; pass max_new_tokens=5."),
        ({"stop": "."}, "found stop='.'; expected stop_strings, its name here; pass stop_strings='.'."),
        ({"n_tokens": 5}, "pass max_new_tokens=5."),
        ({"temp": 0.7}, "pass temperature=0.7."),
        ({"repeat_penalty": 1.2}, "pass repetition_penalty=1.2."),
        ({"temprature": 0.7}, "pass temperature=0.7."),
        ({"n": 3}, "expected one text for each answer; pass the text several times, with do_sample=True."),
        ({"num_beams": 4}, "there is no beam search here; leave it out."),
        ({"colour": "red"}, "found the argument colour='red'; expected one of repetition_penalty,"),
    ],
)
def test_a_neighbour_s_name_is_answered_with_ours(lm: LM, given: dict[str, object], sentence: str):
    for method in (lm.generate, lm.stream):
        with pytest.raises(BadArgument) as caught:
            method("the cat", **given)
        assert sentence in str(caught.value)


def test_no_neighbour_s_name_is_one_of_ours():
    ours = set(inspect.signature(LM.generate).parameters)
    assert not ours & (RENAMED.keys() | INSTEAD.keys()) and set(RENAMED.values()) <= ours


def test_where_nothing_is_said_the_model_s_own_setting_acts(lm: LM):
    lm.__dict__["sampling"] = {"do_sample": True, "temperature": 0.5}
    try:
        assert lm.generate("the cat", max_new_tokens=1).settings.temperature == 0.5
        assert lm.generate("the cat", max_new_tokens=1, temperature=1.0).settings.temperature == 1.0
    finally:
        del lm.__dict__["sampling"]
