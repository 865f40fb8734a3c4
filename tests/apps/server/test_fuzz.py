"""Requests of random arguments, right and wrong, to every ask: each is answered, none of them by a bug."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest

from cutaway.apps.server.asks import ASKS

from .conftest import Reader, Serving, opened, serving

REQUESTS, READERS = 700, 10
WRONG: list[Any] = [
    None, True, -1, 0, 10**30, 1.5, 1e308, "", "x" * 200, [], {}, [[]], {"a": [1]}, "\ud800", "\x00", "../..",
]  # fmt: skip
NUMBERS = [-(10**9), -2, -1, *[0, 1, 2, 3] * 6, 7, 40, 299, 300, 2**31, 2**63, 10**30]
TEXTS = ["the cat sat on the mat", "the cat", "a", "é\ud800\x00", "the " * 300, "mat mat mat mat"]


def request(draw: random.Random, name: str, sites: list[str]) -> dict[str, Any]:
    """An ask with its arguments, most of which fit its signature."""
    takes = ASKS[name].takes
    given = {
        argument: value(draw, argument, hint, sites)
        for argument, (hint, default) in takes.items()
        if draw.random() < (0.3 if default in (False, True) else 0.95 if default is not None else 0.6)
    }
    if draw.random() < 0.8:  # of what excludes another, one
        either = draw.choice([("text", "messages", "step", "generation"), ("messages", "run", "position")])
        clash = either if {"generation", "text"} & takes.keys() and "run" in takes else ()
        given = {argument: each for argument, each in given.items() if argument not in clash}
    if draw.random() < 0.05:
        given[draw.choice(["__init__", "__class__", "call", "which"])] = draw.choice(WRONG)
    if draw.random() < 0.2:
        given["channel"] = draw.choice(["a", "b"])
    return {"name": name, **given}


def value(draw: random.Random, argument: str, hint: Any, sites: list[str]) -> Any:
    if draw.random() < 0.04:
        return draw.choice(WRONG)
    kinds = get_args(hint) or (hint,)
    layers = ["blocks.0.mlp.up", "blocks.2.attn.o", "lm_head", "blocks.9.mlp.up"]
    by_name: dict[str, list[Any]] = {
        "run": ["r1", "r1", "r2", "r99"], "base": ["r1", "r2"], "generation": ["g1", "g1", "g2", "g99"], "text": TEXTS,
        "texts": [[draw.choice(TEXTS)], [draw.choice(TEXTS), draw.choice(TEXTS)]], "site": sites,
        "layer": layers if str in kinds else NUMBERS, "by": ["block", "head", "neuron", "token", "x"],
        "padding_side": ["right", "left", "left", "x"], "messages": [[{"role": "user", "content": "a"}], [{}]],
        "index": [[draw.choice(NUMBERS[2:27]) for _ in range(draw.randrange(1, 4))]], "max_new_tokens": [1, 2, 8, -1],
        "edits": [[edit(draw, sites) for _ in range(draw.randrange(3))]], "settings": [settings(draw)],
        "recipe": [*[json.dumps([edit(draw, sites)])] * 5, '{"format": "cutaway recipe 1", "edits": []}', "{}", "["],
    }  # fmt: skip
    if argument in by_name:
        return draw.choice(by_name[argument])
    return draw.choice(NUMBERS) if int in kinds else draw.choice([True, False]) if bool in kinds else draw.choice(WRONG)


def edit(draw: random.Random, sites: list[str]) -> Any:
    op = draw.choice(["zero", "scale", "add", "set", "patch", "steer", "mean"])
    wanted: dict[str, list[Any]] = {
        "value": [2, 0.5, [1.0] * 8, *WRONG], "position": NUMBERS, "head": NUMBERS, "neuron": NUMBERS,
        "source": NUMBERS, "block": NUMBERS, "from": ["r1", "r9", *WRONG], "from_position": NUMBERS,
    }  # fmt: skip
    given = {name: draw.choice(values) for name, values in wanted.items() if draw.random() < 0.2}
    return draw.choice([given | {"site": draw.choice(sites), "op": op}] * 9 + WRONG)


def settings(draw: random.Random) -> dict[str, Any]:
    wanted: dict[str, list[Any]] = {
        "temperature": [0, 0.5, 1e-300, 1e300, -1], "top_k": NUMBERS, "top_p": [0, 0.5, 1, 2], "min_p": [0, 0.5, 1],
        "do_sample": [True, False], "repetition_penalty": [0.5, 1.2, 0, 1e308], "seed": NUMBERS,
    }  # fmt: skip
    return {name: draw.choice([*values, draw.choice(WRONG)]) for name, values in wanted.items() if draw.random() < 0.1}


def ended(reader: Reader, waiting: set[int]) -> dict[int, dict[str, Any]]:
    """The last message of each of these requests, by its number."""
    last = {}
    while waiting - last.keys():
        message = reader.message()
        if message.get("last") or "error" in message or "cancelled" in message:
            last[message["id"]] = message
    return last


@pytest.fixture(scope="module")
def own(tiny: Path):
    with serving(opened(tiny)) as running:
        yield running


def test_every_ask_answers_whatever_it_is_sent(own: Serving, capfd: pytest.CaptureFixture[str]) -> None:
    draw, sites, bugs = random.Random(0), [*own.lm.sites, "logits", "nothing", "*"], {}
    names, answered = [name for name in ASKS if name != "hello"], Counter[str]()
    for _ in range(READERS):
        with own.reader() as reader:
            for text in ("the cat sat on the mat", "the dog sat on the mat"):
                reader.answer("run", text=text)
            reader.answer("generate", text="the cat sat", max_new_tokens=4)
            for _ in range(REQUESTS // READERS):
                rarest = min(names, key=answered.__getitem__)
                wanted = [draw.choice([rarest, draw.choice(names)]) for _ in range(draw.choice([1, 1, 1, 3]))]
                asked = {reader.ask(**each): each for each in (request(draw, name, sites) for name in wanted)}
                for id, last in ended(reader, set(asked)).items():
                    answered[asked[id]["name"]] += "answer" in last
                    found = last.get("error", {}).get("found", "")
                    bugs |= {found: asked[id]} if "a bug" in found else {}
            assert reader.answer("generate", text="the cat", max_new_tokens=2)["answer"]["text"] is not None
    assert not bugs, (bugs, capfd.readouterr().err)
    assert set(names) == set(+answered), answered  # each is refused often, but not always
