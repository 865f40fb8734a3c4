"""Arguments of wrong kinds: each call of a public method works, or raises one of cutaway's errors, in one sentence."""

import inspect
import os
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

import cutaway
from cutaway import Edit
from cutaway.edit.edit import WHERE
from cutaway.ground.errors import CutawayError
from cutaway.lm import LM
from cutaway.sample.settings import Sampling
from cutaway.text.pieces import Tokens
from tests.tiny import tiny_lm

ROOT = Path(__file__).parents[2]
CALLS = 500
INTERNAL = {"decoder", "checkpoint", "opened"}  # attributes that are no methods, and what `load` calls
# A valid value of each parameter, by name; a new parameter without a default needs one.
VALID: dict[str, Any] = {
    "texts": "the cat", "text": "the cat sat", "clean": "the cat sat", "corrupt": "the dog sat", "answer": "a",
    "against": "o", "toward": "the cat", "away": "the dog", "edits": Edit.zero("blocks.0.mlp_out"), "sites": "logits",
    "site": "blocks.0.resid_post", "positions": -1, "messages": [{"role": "user", "content": "hi"}], "token": 3,
    "asked": {}, "weights": {}, "path": "edits.json", "index": 0, "max_new_tokens": 2, "length": 4, "limit": 8,
    "value": 1.0, "factor": 2.0, "direction": torch.ones(32), "fn": torch.relu, "ids": [[1, 2]],
    "name": "blocks.0.attn", "x": torch.ones(1, 2, 32), "resid": torch.ones(1, 2, 32), "layer": 0,
    "by": ("block", "head"), "tokens": Tokens.from_ids([1, 2]), "step": 1,
}  # fmt: skip


class Odd:
    """An object of no use."""

    def __init__(self, *_: Any) -> None:
        """Takes whatever it is called with."""


WRONG: list[Any] = [
    None, 0, -1, 7, 10**30, True, 1.5, float("nan"), "", " ", "zebra", "blocks.9.nothing", b"bytes", [], [[]], [None],
    ["the cat", 3], [1, 2, 3], (), {}, {"a": 1}, {1}, Odd(), Odd, lambda *x: x, range(3), Path("none.json"),
    torch.tensor(3), torch.tensor([]), torch.tensor([1.5, 2.5]), torch.tensor([True]), torch.ones(2, 2, 2),
    torch.tensor([1, 2], dtype=torch.uint8), torch.tensor([[5, 299]]), torch.tensor([400]), torch.tensor([1j]),
    torch.empty(2, device="meta"), Tokens.from_ids([1, 2]), Edit.zero("blocks.1.attn.z"), object(), 3 + 4j,
]  # fmt: skip


def methods(lm: LM) -> dict[str, Callable[..., Any]]:
    names = [name for name in dir(type(lm)) if not name.startswith("_") and name not in INTERNAL]
    found = {name: getattr(lm, name) for name in names if callable(getattr(type(lm), name, None))}
    edits = {
        f"Edit.{name}": getattr(Edit, name) for name in ("set", "add", "scale", "zero", "mean", "patch", "function")
    }
    return found | edits | {"Tokens.from_ids": Tokens.from_ids}


def arguments(function: Callable[..., Any], draw: random.Random, lm: LM) -> tuple[list[Any], dict[str, Any]]:
    """Valid ones, of which one or two are wrong. Positional ones in their order, others by name."""
    given: list[Any] = []
    named: dict[str, Any] = {}
    every = inspect.signature(function).parameters.values()
    parameters = [each for each in every if each.name != "pieces"]  # what the tokenizer itself passes
    wrong = {each.name for each in draw.sample(parameters, min(len(parameters), draw.choice([1, 1, 2])))}
    for each in parameters:
        value = draw.choice(WRONG) if each.name in wrong else VALID.get(each.name, each.default)
        if each.name not in wrong and each.name == "trace":
            value = lm.trace("the cat")
        if each.name not in wrong and each.name == "out":
            value = lm.generate("the cat", max_new_tokens=2)
        if each.kind is each.VAR_POSITIONAL:
            given += [value, 0, 0, 0]
        elif each.kind is each.VAR_KEYWORD and each.name == "where":
            named |= {draw.choice(WHERE): draw.choice(WRONG)} if each.name in wrong else {}
        elif each.kind is each.VAR_KEYWORD:
            setting = draw.choice([field.name for field in fields(Sampling)])
            named |= {"max_new_tokens": 2} | ({setting: draw.choice(WRONG)} if each.name in wrong else {})
        elif value is not each.empty and each.kind is each.KEYWORD_ONLY:
            if each.name in wrong or each.name in VALID:
                named[each.name] = value
        else:
            assert value is not each.empty, f"{function} needs a valid {each.name} in VALID"
            given.append(value)
    return given, named


def used(result: Any) -> None:
    """An iterator is run, a context entered, a finding printed."""
    if isinstance(result, AbstractContextManager):
        with result:
            pass
    elif isinstance(result, Iterator):
        list(result)
    else:
        assert str(result) is not None and repr(result)


def outcome(lm: LM, seed: int) -> str | None:
    """None, or the bug of one call in words."""
    draw = random.Random(seed)
    name, function = draw.choice(list(methods(lm).items()))
    given, named = arguments(function, draw, lm)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            used(function(*given, **named))
    except CutawayError as error:
        said = str(error)
        return None if said.startswith("found ") and "\n" not in said[:300] else f"{seed} {name}: {said!r}"
    except Exception as error:
        return f"{seed} {name}({given}, {named}): {type(error).__name__}: {error}"
    return None


def load_of_a_wrong_kind(lm: LM) -> Iterator[str]:
    """The bugs of `load`, one argument wrong at a time."""
    for name, wrong in ((n, w) for n in ("model", "quantize", "keep", "dtype", "device", "threads") for w in WRONG):
        given = {"model": lm.checkpoint.path, "device": "cpu", "offline": True} | {name: wrong}
        try:
            if given["model"] is not None:  # None is the default model
                cutaway.load(**given)
        except CutawayError:
            pass
        except Exception as error:
            yield f"load({name}={wrong!r}): {type(error).__name__}: {error}"


def test_a_wrong_kind_is_one_sentence(tmp_path: Path):
    """In a process of its own: the types that these tests check elsewhere (conftest.py) are not checked for a user."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "tests.lm.test_wrong_kinds", str(CALLS)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == f"{CALLS} calls\n", done.stdout + done.stderr


def main(calls: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lm = tiny_lm("llama", Path(folder))
        os.chdir(folder)  # where a file is written
        bugs = [bug for seed in range(calls) if (bug := outcome(lm, seed))] + list(load_of_a_wrong_kind(lm))
    print(*bugs, f"{calls} calls", sep="\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
