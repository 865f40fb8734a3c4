"""A fork: another token at one step of a text, and what follows; its cache rewound, to the bits of reading it again."""

import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from cutaway import Edit
from cutaway.ground.errors import BadArgument
from cutaway.lm import LM, load
from cutaway.model.tap import Untapped
from cutaway.sample.generation import Generation
from cutaway.sample.step import forked
from tests.model_types import drawn, longrope
from tests.tiny import build

SETTINGS = [{}, {"do_sample": True, "temperature": 1.5, "seed": 3, "repetition_penalty": 1.3}]
EDIT = [Edit.scale("blocks.1.mlp_out", 0.2, step=(0, 2)), Edit.zero("blocks.0.attn.z", head=1, position=-1)]


def same(one: Generation, other: Generation) -> bool:
    pairs = list(zip(one.steps, other.steps, strict=True))
    alike = all(torch.equal(a.logits, b.logits) and torch.equal(a.ids, b.ids) and a.ended == b.ended for a, b in pairs)
    return alike and one.text == other.text and all(a.text == b.text for a, b in pairs)


class Passes(Untapped):
    """The lengths of the passes that were run."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def __call__(self, name: str, value: torch.Tensor) -> torch.Tensor:
        if name == "embed.token":
            self.lengths.append(value.shape[1])
        return value


@pytest.mark.parametrize("settings", SETTINGS, ids=["greedy", "drawn"])
@pytest.mark.parametrize("edits", [[], EDIT], ids=["", "edited"])
def test_a_fork_at_its_own_token_is_the_text_itself(lm: LM, int8: LM, settings: dict, edits: list) -> None:
    for model in (lm, int8):
        out = model.generate("the cat", keep_cache=True, max_new_tokens=8, edits=edits, **settings)
        last = len(out.steps) - 1
        for step in (min(6, last), 0, min(3, last), last):
            own = int(out.steps[step].ids[0])
            assert same(model.fork(out, step, own), out)
            assert same(model.fork(replace(out, cache=None), step, own), out)


@pytest.mark.parametrize("settings", SETTINGS, ids=["greedy", "drawn"])
def test_a_fork_goes_on_from_its_token_whatever_the_cache_read_before(int8: LM, settings: dict) -> None:
    out = int8.generate("the dog", keep_cache=True, max_new_tokens=8, **settings)
    for step, token in ((5, 40), (2, 41), (5, 42), (0, 43)):
        fork, again = int8.fork(out, step, token), int8.fork(replace(out, cache=None), step, token)
        assert same(fork, again) and int(fork.steps[step].ids[0]) == token and fork.steps[step].forced
        assert [int(s.ids[0]) for s in fork.steps[:step]] == [int(s.ids[0]) for s in out.steps[:step]]
        assert "put there by the caller" in fork.steps[step].table() and fork.steps[step].u is None
    longer = int8.fork(out, 5, 42, max_new_tokens=20)
    assert len(longer.steps) > 8 and [int(s.ids[0]) for s in longer.steps[:5]] == list(out.new_ids[0][:5])


def test_the_cache_is_rewound_and_nothing_read_twice(int8: LM) -> None:
    out, passes = int8.generate("the cat sat", keep_cache=True, max_new_tokens=8), Passes()
    assert out.cache is not None and out.cache.nbytes > 0
    chosen = [*out.steps[:4], out.steps[4].with_token(50)]
    list(int8.stream(out.prompt, cache=out.cache, chosen=chosen, tap=passes, max_new_tokens=8))
    assert passes.lengths == [1, 1, 1]  # tokens 4, 5 and 6: the last is not read


def test_a_stopped_run_leaves_a_cache_that_is_right(int8: LM) -> None:
    out = int8.generate("the cat", keep_cache=True, max_new_tokens=8)
    stream = int8.stream(out.prompt, cache=out.cache, chosen=out.steps[:2], max_new_tokens=8)
    assert next(stream) and out.cache is not None and out.cache.cache is None  # it is lent
    inner = int8.fork(out, 3, 44)  # by another run meanwhile: it has a cache of its own
    stream.close()  # type: ignore[attr-defined]
    assert same(int8.fork(out, 3, 44), inner)


def test_other_weights_or_edits_are_read_anew(int8: LM) -> None:
    out = int8.generate("the cat", keep_cache=True, max_new_tokens=6)
    bare = replace(out, cache=None)
    name = "blocks.0.W_O"
    with int8.edited({name: torch.zeros_like(int8.weights[name])}):
        assert same(int8.fork(out, 4, 40), int8.fork(bare, 4, 40))
    assert same(int8.fork(out, 4, 40), int8.fork(bare, 4, 40))
    edits = [Edit.zero("blocks.1.mlp_out")]
    assert same(int8.fork(out, 4, 40, edits=edits), int8.fork(bare, 4, 40, edits=edits))


def test_an_end_put_into_a_text_ends_it(int8: LM) -> None:
    out = int8.generate("the cat", keep_cache=True, max_new_tokens=6)
    fork = int8.fork(out, 2, next(iter(int8.eos_ids)))
    assert len(fork.steps) == 3 and fork.ended == ("eos",)
    copied = pickle.loads(pickle.dumps(out))
    assert copied.cache is None and same(int8.fork(copied, 1, 40), int8.fork(out, 1, 40))


def test_a_fork_has_the_edits_and_the_last_settings_of_what_it_forks(int8: LM) -> None:
    out = int8.generate("the cat", max_new_tokens=6, edits=EDIT)
    drawn = int8.fork(out, 2, 40, do_sample=True, temperature=1.5, seed=3)
    again = int8.fork(drawn, len(drawn.steps) - 1, int(drawn.steps[-1].ids[0]))
    assert drawn.edits == out.edits == tuple(EDIT)
    assert same(int8.fork(pickle.loads(pickle.dumps(out)), 1, 40), int8.fork(out, 1, 40))
    assert same(again, drawn) and again.steps[-1].settings == drawn.steps[-1].settings != out.settings
    third = int8.fork(drawn, 3, 41)
    assert third.steps[-1].settings.do_sample and third.edits == out.edits
    assert not same(int8.fork(out, 1, 40), int8.fork(out, 1, 40, edits=()))
    function = int8.generate("the cat", max_new_tokens=3, edits=Edit.function("blocks.1.mlp_out", lambda x: x * 2))
    assert same(int8.fork(function, 1, int(function.steps[1].ids[0])), function)
    with pytest.raises(BadArgument, match="a pickled generation, whose edits had a function"):
        int8.fork(pickle.loads(pickle.dumps(function)), 1, 40)


def test_what_is_no_fork_is_refused(int8: LM) -> None:
    out = int8.generate("the cat", max_new_tokens=2)
    with pytest.raises(BadArgument, match=r"step=2; expected one of its 2 steps"):
        int8.fork(out, 2, 3)
    with pytest.raises(BadArgument, match="several texts"):
        int8.fork(int8.generate(["a", "the cat"], max_new_tokens=2), 0, 3)
    with pytest.raises(BadArgument, match="several texts to be kept"):
        int8.generate(["a", "the cat"], keep_cache=True, max_new_tokens=2)
    with pytest.raises(BadArgument, match="found 2 chosen steps; expected at most 1 new tokens"):
        int8.fork(out, 1, 3, max_new_tokens=1)
    assert len(int8.fork(out, 1, 3, max_new_tokens=2).steps) == 2
    pair = int8.generate(["a", "the cat"], max_new_tokens=2).steps
    as_chosen = partial(int8.stream, "the cat", chosen=pair)
    for refused in (as_chosen, partial(pair[0].with_token, 3), partial(forked, pair, 1, 3)):
        with pytest.raises(BadArgument, match="found a step of 2 texts; expected a step of one text"):
            refused()
    with pytest.raises(BadArgument, match="Tensor among chosen steps"):
        int8.stream("the cat", chosen=[torch.ones(2)])  # type: ignore[list-item]


@pytest.mark.parametrize(("first", "then"), [(8, 30), (30, 8)])
def test_a_fork_on_the_other_side_of_longropes_border_is_read_anew(first: int, then: int, tmp_path: Path) -> None:
    over = {"original_max_position_embeddings": 16, "rope_parameters": longrope(4)}
    build(drawn("phi3", 0, **over), scale=0.3).save_pretrained(tmp_path)
    lm = load(tmp_path, quantize=None, device="cpu")
    out = lm.generate(torch.tensor([[3, 5, 7, 9]]), keep_cache=True, max_new_tokens=first)
    step = min(3, len(out.steps) - 1)
    fork, again = (lm.fork(o, step, 4, max_new_tokens=then) for o in (out, replace(out, cache=None)))
    assert len(fork.steps) > step + 1 and same(fork, again)
