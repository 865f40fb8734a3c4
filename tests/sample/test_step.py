"""A step: its stages, its candidates, its table, its data; and the stop strings' tail."""

import json
import unicodedata
from dataclasses import replace

import pytest
import torch

from cutaway.ground.errors import BadArgument
from cutaway.sample.generation import collect
from cutaway.sample.loop import generate
from cutaway.sample.settings import Sampling
from cutaway.sample.step import Step
from cutaway.sample.stopping import holds_stop_string
from cutaway.text.pieces import Tokens
from tests.tiny import Scripted, batch, llama, random_decoder

WORDS = [" the", "\n", "日本語日本語日本語日本語", "é", "'", "a" * 40, "", "\u202e", "🙂", " x", "z"]


def one_step(settings: Sampling, logits: torch.Tensor | None = None, rows: int = 1) -> Step:
    if logits is None:
        logits = torch.tensor([0.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -torch.inf])
    decoder = Scripted(logits.expand(len(logits), -1))
    return next(generate(decoder, batch(*[[1]] * rows), settings, show=lambda token: WORDS[token % 11]))


FULL = Sampling(do_sample=True, temperature=0.5, top_k=6, top_p=0.999, min_p=0.001, repetition_penalty=1.2, seed=1)


def test_stages_and_probs_are_recomputed_the_same() -> None:
    step = one_step(FULL)
    names = [name for name, _ in step.stages()]
    assert names == ["logits", "repetition_penalty", "temperature", "top_k", "top_p", "min_p"]
    for (_, one), (_, other) in zip(step.stages(), step.stages(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(step.probs, step.stages()[-1][1].softmax(-1))
    assert step.probs.sum().item() == pytest.approx(1)


def test_candidates_say_what_removed_them() -> None:
    step = one_step(FULL)
    top = step.top(11)
    assert [c.id for c in top] == [1, 2, 3, 4, 5, 0, 6, 7, 8, 9, 10]
    assert [c.rank for c in top] == list(range(11))
    assert [c.removed_by for c in top][-4:] == ["top_k"] * 3 + ["logits"]  # 0 ties with the sixth
    assert "top_p" in [c.removed_by for c in top] and top[0].removed_by is None
    model = step.logits[0].softmax(-1)
    assert top[0].prob_model == pytest.approx(model[1].item()) and top[0].logit == 5.0
    assert sum(c.prob for c in top) == pytest.approx(1)
    assert all((c.prob == 0) == (c.removed_by is not None) for c in top)
    assert [c.id for c in top if c.chosen] == step.ids.tolist()


def test_the_draw_falls_where_the_step_says() -> None:
    for seed in range(20):
        step = one_step(Sampling(do_sample=True, temperature=3.0, seed=seed))
        start, end = step.interval()
        assert step.u is not None and start <= step.u.item() < end


def test_the_chosen_one_is_always_listed() -> None:
    flat = torch.zeros(11)
    listed = [one_step(Sampling(do_sample=True, seed=seed), flat).top(2) for seed in range(30)]
    assert {len(top) for top in listed} == {2, 3}
    for top in listed:
        assert sum(c.chosen for c in top) == 1
        assert [c.rank for c in top] == [c.id for c in top]  # ties stand by id


def columns(line: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(char) in "WF") for char in line if not unicodedata.combining(char))


@pytest.mark.parametrize("settings", [FULL, Sampling(), Sampling(repetition_penalty=2.0)])
def test_table_is_plain_and_at_most_80_columns(settings: Sampling) -> None:
    for k in (1, 3, 99):
        text = one_step(settings).table(k)
        assert all(columns(line) <= 80 for line in text.splitlines()), text
        assert text.isprintable() or set(filter(lambda char: not char.isprintable(), text)) == {"\n"}
        assert len([line for line in text.splitlines() if line.startswith(">")]) == 1


def test_table_says_the_draw() -> None:
    step = one_step(Sampling(do_sample=True, temperature=0.5, top_p=0.9, seed=1, max_new_tokens=1))
    start, end = step.interval()
    text = step.table(4)
    assert text.splitlines()[0] == "step 0, text 0: temperature=0.5, top_k=50, top_p=0.9, seed=1"
    assert f"u = {step.u.item():.4f} falls in [{start:.4f}, {end:.4f}): token {step.ids[0]}" in text
    assert "the text is over: length" in text and "top_p" in text
    greedy = one_step(Sampling())
    assert "the highest logit: token 1 ↵" in greedy.table()


def test_rows_and_counts_are_checked() -> None:
    step = one_step(FULL, rows=2)
    assert step.table(row=1).startswith("step 0, text 1")
    for call in (step.top, step.table):
        with pytest.raises(BadArgument, match="row=2"):
            call(row=2)
        with pytest.raises(BadArgument, match="k=0"):
            call(k=0)


def test_data_is_json_and_padding_is_marked() -> None:
    decoder = random_decoder(llama())
    tokens = batch([1, 2], [3])
    first = next(generate(decoder, tokens, Sampling(max_new_tokens=1))).ids.tolist()
    assert first[0] != first[1]
    eos = frozenset(first[:1])
    steps = list(generate(decoder, tokens, Sampling(max_new_tokens=3, do_sample=True, top_k=1), eos_ids=eos))
    data = json.loads(json.dumps([step.as_data(3) for step in steps], allow_nan=False))
    assert data[0]["texts"][0]["ended"] == "eos" and data[1]["texts"][0]["was_over"] is True
    assert data[0]["texts"][1]["top"][0]["chosen"] is True
    assert data[0]["settings"]["seed"] == steps[0].settings.seed
    assert "over before (eos)" in steps[1].table(row=0)
    assert json.dumps(one_step(FULL).as_data(99), allow_nan=False)


def test_a_step_holds_the_seen_ids_only_for_the_penalty() -> None:
    assert one_step(Sampling()).seen_ids is None
    assert one_step(FULL).seen_ids.tolist() == [[1]]


def test_generation_holds_the_new_text() -> None:
    def lettered(tokens: Tokens) -> list[Step]:
        """Steps whose text is a letter for each id."""
        steps = generate(random_decoder(llama()), tokens, Sampling(max_new_tokens=4))
        return [replace(step, text=tuple(chr(97 + id) for id in step.ids.tolist())) for step in steps]

    tokens = batch([1, 2], [3])
    steps = lettered(tokens)
    out = collect(tokens, steps, prompt_text=["P", "Q"])
    assert out.text == ["".join(chr(97 + id) for id in row) for row in out.new_ids]
    assert out.ended == ("length", "length")
    first, second = (f"{p}{t}\n(ended: length, 4 tokens)" for p, t in zip("PQ", out.text, strict=True))
    assert str(out) == f"text 1 of 2: 'P'\n{first}\n\ntext 2 of 2: 'Q'\n{second}"
    assert out.settings == steps[0].settings
    single = collect(batch([1]), lettered(batch([1])), single=True)
    assert isinstance(single.text, str) and str(single).startswith(single.text + "\n(ended: ")
    assert collect(tokens, []).new_ids == ((), ())


def bytes_text(ids: list[int]) -> str:
    """A token a byte; 256 and above are special and have no text."""
    return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")


@pytest.mark.parametrize("stop", ["needle", "é", "🙂🙂", "x\ny"])
@pytest.mark.parametrize("between", [[], [300] * 40])
def test_stop_strings_are_found_at_the_token_that_completes_them(stop: str, between: list[int]) -> None:
    pieces = [[byte, *between] for byte in stop.encode()]
    before = list(("🙂é filler " * 9).replace(stop, "").encode())
    ids = [*before, *(i for piece in pieces for i in piece)]
    assert holds_stop_string(ids, (stop, "other"), bytes_text)
    for cut in range(len(before), len(ids)):
        assert holds_stop_string(ids[:cut], (stop,), bytes_text) == (stop in bytes_text(ids[:cut])), cut


def test_only_a_tail_is_decoded() -> None:
    lengths = []

    def decode(ids: list[int]) -> str:
        lengths.append(len(ids))
        return bytes_text(ids)

    assert not holds_stop_string(list(b"a" * 5000), ("needle",), decode)
    assert max(lengths) < 40
