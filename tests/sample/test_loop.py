"""The loop: what ends a text, how a batch treats its rows, the decoder's inputs, and logits without a token."""

import math
from typing import Any

import pytest
import torch

from cutaway.ground.errors import BadArgument, BadText, NotFinite
from cutaway.model.cache import Cache
from cutaway.model.tap import Untapped
from cutaway.sample.generation import new_ids_of
from cutaway.sample.loop import generate
from cutaway.sample.settings import Sampling
from cutaway.text.pieces import Tokens, positions_of
from tests.tiny import VOCAB, Scripted, batch, build, gpt2, llama, random_decoder, successor


def run(decoder, tokens, *, eos=(), **asked):
    extra = {name: asked.pop(name) for name in ("decode", "tap", "cache", "use_cache", "pad_id") if name in asked}
    return list(generate(decoder, tokens, Sampling(**asked), eos_ids=frozenset(eos), **extra))


def ids(steps, rows=1):
    return [list(row) for row in new_ids_of(steps, rows)]


def letters(new: list[int]) -> str:
    return "".join("abcdefghijk"[i] for i in new)


def test_an_incomplete_tap_is_refused_before_the_first_step() -> None:
    class Watches:
        def __call__(self, name: str, value: torch.Tensor) -> torch.Tensor:
            return value

        def wants(self, *names: str) -> bool:
            return True

    with pytest.raises(BadArgument, match="a tap of type Watches; expected one with __call__"):
        run(successor(), batch([1, 2]), tap=Watches(), max_new_tokens=4)


def test_one_token_a_step_from_the_cache() -> None:
    decoder = successor()
    steps = run(decoder, batch([1, 2]), max_new_tokens=4)
    assert ids(steps) == [[3, 4, 5, 6]]
    assert [call[0] for call in decoder.calls] == [[1, 2], [1, 1], [1, 1], [1, 1]]  # the last token is not read
    assert decoder.calls[0][1].tolist() == [1]  # prefill unembeds the last position only
    assert [call[2].tolist() for call in decoder.calls[1:]] == [[[2]], [[3]], [[4]]]
    assert [step.index for step in steps] == [0, 1, 2, 3]
    assert [step.ended for step in steps] == [(None,)] * 3 + [("length",)]


def test_lengths_as_transformers_counts_them() -> None:
    assert len(run(successor(), batch([1, 2, 3]), max_length=7)) == 4
    assert len(run(successor(), batch([1, 2, 3]), max_length=7, max_new_tokens=2)) == 2
    assert len(run(successor(n_positions=99), batch([1]))) == 50
    with pytest.raises(BadArgument, match="max_length=3 with a prompt of 3"):
        generate(successor(), batch([1, 2, 3]), Sampling(max_length=3))


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_text_of_a_batch_stops_at_its_own_eos(side: str) -> None:
    steps = run(successor(), batch([1], [4, 5, 6], [2, 3], side=side), eos=[8], max_new_tokens=6, pad_id=9)
    assert ids(steps, 3) == [[2, 3, 4, 5, 6, 7], [7, 8], [4, 5, 6, 7, 8]]
    assert steps[-1].ended == ("length", "eos", "eos")
    assert steps[1].ended == (None, "eos", None)
    assert [step.was_over.tolist()[1] for step in steps] == [False, False, True, True, True, True]
    assert [step.ids.tolist()[1] for step in steps[2:]] == [9, 9, 9, 9]


def test_max_length_in_a_padded_batch_is_each_text_s_own() -> None:
    steps = run(successor(), batch([1], [4, 5, 6]), max_length=5)
    assert ids(steps, 2) == [[2, 3, 4, 5], [7, 8]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("config", [llama(), gpt2()], ids=["rope", "learned positions"])
@pytest.mark.parametrize("sampled", [True, False])
def test_with_and_without_the_cache_and_alone_the_same(side: str, config: Any, sampled: bool) -> None:
    decoder, rows = random_decoder(config), [[3], [1, 2, 3, 4, 5], [7, 8]]
    asked = {"max_new_tokens": 12, "do_sample": sampled, "seed": 4, "top_p": 0.9, "repetition_penalty": 1.3}
    eos = [0, 6]
    cached = run(decoder, batch(*rows, side=side), eos=eos, **asked)
    again = run(decoder, batch(*rows, side=side), eos=eos, use_cache=False, **asked)
    assert ids(cached, 3) == ids(again, 3)
    assert cached[-1].ended == again[-1].ended
    for one, other in zip(cached, again, strict=True):
        live = ~one.was_over
        torch.testing.assert_close(one.logits[live], other.logits[live], rtol=1e-4, atol=1e-4)
    alone = run(decoder, batch(rows[0]), eos=eos, **asked)  # row 0 draws from the same dice
    assert ids(alone) == ids(cached, 3)[:1]
    if not sampled:
        for row in (1, 2):
            assert ids(run(decoder, batch(rows[row]), eos=eos, **asked)) == [ids(cached, 3)[row]]


def test_seeded_draws_repeat_and_an_unseeded_run_says_its_seed() -> None:
    decoder, tokens = Scripted(torch.zeros(VOCAB, VOCAB)), batch([1], [2])
    asked = {"do_sample": True, "max_new_tokens": 20}
    first = run(decoder, tokens, **asked)
    seed = first[0].settings.seed
    assert seed is not None and all(step.settings.seed == seed for step in first)
    assert ids(run(decoder, tokens, seed=seed, **asked), 2) == ids(first, 2)
    assert ids(run(decoder, tokens, **asked), 2) != ids(first, 2)
    assert ids(first, 2)[0] != ids(first, 2)[1]  # same logits, other dice


def test_a_text_s_draws_do_not_depend_on_its_batch_mates() -> None:
    decoder = Scripted(torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0)))
    asked = {"do_sample": True, "max_new_tokens": 10, "seed": 3}
    two = ids(run(decoder, batch([1], [2, 3, 4]), eos=[], **asked), 2)
    other = ids(run(decoder, batch([1], [9], [5, 5]), eos=[8], **asked), 3)
    assert two[0][: len(other[0])] == other[0]


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(("e",), [2, 3, 4]), (("cd",), [2, 3]), (("efgh", "zzz"), [2, 3, 4, 5, 6, 7]), (("bc",), [*range(2, 11)])],
)
def test_stop_strings_across_tokens_of_the_new_text_only(stop, expected) -> None:
    steps = run(successor(), batch([0, 1]), decode=letters, stop_strings=stop, max_new_tokens=9)
    assert ids(steps) == [expected]  # "bc" would begin in the prompt
    assert steps[-1].ended == ("length" if stop == ("bc",) else "stop",)


def test_stop_strings_end_each_text_by_itself_and_need_decode() -> None:
    steps = run(successor(), batch([1], [5, 6]), decode=letters, stop_strings=("i",), max_new_tokens=4)
    assert ids(steps, 2) == [[2, 3, 4, 5], [7, 8]]
    with pytest.raises(BadArgument, match="stop_strings"):
        generate(successor(), batch([1]), Sampling(stop_strings=("a",)))


def test_the_end_of_the_context_ends_a_text() -> None:
    steps = run(successor(n_positions=6), batch([1, 2, 3]), max_new_tokens=10**9)
    assert ids(steps) == [[4, 5, 6]] and steps[-1].ended == ("context",)
    assert run(successor(n_positions=6), batch([1, 2, 3]), max_new_tokens=3)[-1].ended == ("length",)
    full = run(successor(n_positions=3), batch([1, 2, 3]))
    assert ids(full) == [[4]] and full[-1].ended == ("context",)
    with pytest.raises(BadText, match="text 1 of 4 tokens; expected at most 3"):
        generate(successor(n_positions=3), batch([1], [1, 2, 3, 4]), Sampling())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_text_at_the_context_s_end_waits_for_the_others(side: str, use_cache: bool) -> None:
    decoder = random_decoder(gpt2(n_positions=6))  # learned positions: one beyond the table would be an error
    rows = batch([1, 2, 3, 4, 5, 6], [1, 2], side=side)
    steps = run(decoder, rows, use_cache=use_cache)
    assert [len(new) for new in ids(steps, 2)] == [1, 4]
    assert steps[-1].ended == ("context", "context")
    assert ids(steps, 2)[1] == ids(run(decoder, batch([1, 2])))[0]


def test_a_text_without_tokens_is_refused() -> None:
    mask = torch.tensor([[1, 1], [0, 0]])
    empty = Tokens(mask, mask, positions_of(mask))  # Tokens.from_ids refuses it sooner
    with pytest.raises(BadText, match="text 1 without a token"):
        generate(successor(), empty, Sampling())


@pytest.mark.parametrize(("bad", "word"), [(math.nan, "NaN"), (math.inf, r"\+inf"), (-math.inf, "nothing but -inf")])
@pytest.mark.parametrize("sampled", [True, False])
def test_logits_that_name_no_token(bad: float, word: str, sampled: bool) -> None:
    table = successor().table.clone()
    table[4] = bad
    steps = generate(Scripted(table), batch([8], [2]), Sampling(do_sample=sampled, top_k=1))
    next(steps), next(steps)
    with pytest.raises(NotFinite, match=f"{word} in the logits of step 2, text 1"):
        next(steps)


def test_some_minus_inf_is_fine_and_a_text_that_is_over_may_give_anything() -> None:
    table = torch.where(successor().table > 0, 1.0, -torch.inf)
    assert ids(run(Scripted(table), batch([1]), max_new_tokens=3, do_sample=True)) == [[2, 3, 4]]
    table[9] = torch.nan  # the padding of row 0 reads this row
    steps = run(Scripted(table), batch([1], [2]), eos=[2], pad_id=9, max_new_tokens=4, do_sample=True, top_p=0.9)
    assert ids(steps, 2) == [[2], [3, 4, 5, 6]]


def test_settings_that_overflow_the_logits_are_named() -> None:
    with pytest.raises(NotFinite, match="after temperature=1e-40"):
        run(successor(), batch([1]), do_sample=True, temperature=1e-40)


class Watcher(Untapped):
    def __init__(self, *wanted: str) -> None:
        self.wanted, self.seen = frozenset(wanted), []

    def __call__(self, name, value):
        self.seen.append((name, list(value.shape)))
        return value

    def wants(self, *names: str) -> bool:
        return not self.wanted.isdisjoint(names)


@pytest.mark.parametrize("site", ["logits", "ln_final.out"])
def test_a_tap_on_the_end_of_the_pass_gets_every_place(site: str) -> None:
    decoder, tokens = random_decoder(llama()), batch([1, 2, 3, 4], [5, 6])
    plain = run(decoder, tokens, max_new_tokens=3)
    watcher = Watcher(site)
    watched = run(decoder, tokens, max_new_tokens=3, tap=watcher)
    shapes = [shape[:2] for name, shape in watcher.seen if name == "logits"]
    assert shapes == [[2, 4], [2, 1], [2, 1]]
    assert ids(plain, 2) == ids(watched, 2)
    assert watched[0].logits.shape == (2, VOCAB) and watched[0].logits.untyped_storage().nbytes() == 2 * VOCAB * 4
    unembedded: list[list[int]] = []
    decoder.unembed.register_forward_hook(lambda module, given, out: unembedded.append(list(out.shape[:2])))
    run(decoder, tokens, max_new_tokens=3, tap=Watcher("blocks.0.attn.z"))
    assert unembedded == [[2, 1], [2, 1], [2, 1]], "only the last position, where no tap records the others"


def test_a_cache_of_one_s_own_is_used_and_the_one_made_is_just_large_enough(monkeypatch) -> None:
    decoder = random_decoder(llama())
    cache = Cache(decoder.config.n_layers, 1, 20)
    run(decoder, batch([1, 2, 3]), max_new_tokens=5, cache=cache)
    assert cache.length == 7
    made = []
    admit = Cache.admit
    monkeypatch.setattr(Cache, "admit", lambda self, tokens: (made.append(self), admit(self, tokens))[1])
    run(decoder, batch([1, 2, 3]), max_new_tokens=5)
    assert made[0].capacity == made[0].length == 7


def test_closing_leaves_nothing_behind() -> None:
    steps = generate(random_decoder(llama()), batch([1]), Sampling())
    assert next(steps).logits.is_inference()  # no graph grows behind the steps
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()  # the caller's world is its own
    steps.close()
    assert list(steps) == []

    class Interrupted(Scripted):
        def forward(self, *args, **kwargs):
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().forward(*args, **kwargs)

    steps = generate(Interrupted(successor().table), batch([1]), Sampling())
    got = []
    with pytest.raises(KeyboardInterrupt):
        got.extend(steps)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_greedy_and_penalty_are_transformers_generate() -> None:
    model = build(llama(vocab_size=50))
    prompt = torch.tensor([[3, 4, 5]])
    asked = {"max_new_tokens": 15, "repetition_penalty": 1.4, "do_sample": False}
    theirs = model.generate(prompt, attention_mask=torch.ones_like(prompt), eos_token_id=None, **asked)

    class Theirs(Scripted):
        def forward(self, tokens, cache=None, tap=None, last=None):
            return model(tokens.ids, attention_mask=tokens.mask).logits[:, -1:]

    mine = run(Theirs(torch.zeros(50, 50)), Tokens.from_ids(prompt), use_cache=False, **asked)
    assert ids(mine) == [theirs[0, 3:].tolist()]
