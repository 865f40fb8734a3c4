"""Stages 7 and 8 and the lesson: each number, text and fork on the screen is the one that Python gives."""

import json
import re
import time
from urllib.parse import quote_plus

import pytest
import torch

from cutaway.analysis.heads import score_heads
from cutaway.lm import LM
from cutaway.sample.distribution import choice, filtered
from cutaway.text.table import visible
from tests.apps.server.conftest import Serving, tiny
from tests.web.test_first_stages import LARGE, PROMPT, SMALL, TEXT, Open, page, plain, running, said, table, watch

__all__ = ["page", "plain", "running", "tiny"]
DRAWN = {"do_sample": True, "temperature": 0.9, "top_k": 60, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.2}
STATE = f"{PROMPT}&seed=5&settings={quote_plus(json.dumps(DRAWN))}"
WORDS = {"top_k": "top-k", "top_p": "top-p", "min_p": "min-p", None: ""}


def percent(share: float) -> str:
    value, size = share * 100, abs(share * 100)
    if 0 < value < 0.001:
        return "<0.001 %"
    short = f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{float(f'{value:.2g}'):g}"
    return f"{short} %"


def read(locator) -> str:
    return locator.inner_text().replace("\u00a0", " ")


def chosen(plain: LM, position: int, index: int, **settings):
    """The choice after a position of the text, by Python."""
    given = plain.settings({**DRAWN, "seed": 5, **settings})
    ids = plain.tokenize(TEXT).ids[0]
    logits = plain.logits(TEXT)[0, position]
    return choice(logits, given, index=index, seen=ids[: position + 1], show=plain.token_text)


def rows(plain: LM, made, first: int, count: int) -> list[list[str]]:
    return [
        [f"{c.rank + 1:,}", visible(c.text), str(c.id), said(c.logit), percent(c.prob_model), percent(c.prob_scaled),
         "–" if c.removed_by else percent(c.prob), WORDS[c.removed_by]]
        for c in made.window(first, count)
    ]  # fmt: skip


def shown_rows(tab) -> list[list[str]]:
    cells = tab.locator("table[aria-label^=Candidates] tbody tr").evaluate_all(
        "all => all.map(row => [...row.children].slice(0, 8).map(cell => cell.innerText.replaceAll('\\u00a0', ' ')))"
    )
    return [[text.strip() for text in row] for row in cells]


def drawn_as_said(tab, made) -> None:
    """The sentence of the draw, at its own number of digits."""
    u, start, end, word = re.fullmatch(
        r"u = (\S+) falls in \[(\S+), (\S+)\): (.*)", read(tab.locator(".sentence"))
    ).groups()
    digits = len(u) - 2
    assert [u, start, end] == [f"{each:.{digits}f}" for each in (float(made.u[0]), *made.interval())]
    assert word == visible(plain_text(made))


def plain_text(made) -> str:
    return made.show(int(made.ids[0]))


def test_the_choice_after_any_position_is_python_s(page: Open, plain: LM):
    tab = page(f"{STATE}&open=7&focus=t2")
    made = chosen(plain, 2, 0)
    tab.locator("table[aria-label^=Candidates] td.final").first.wait_for()
    assert shown_rows(tab) == rows(plain, made, 0, 13)
    drawn_as_said(tab, made)
    effects = [read(each) for each in tab.locator(".filters .effect.acts").all()]
    assert effects == [
        f"removes {s.removed:,} token{'s' * (s.removed != 1)} with {percent(s.removed_prob)}" if s.removed
        else "removes none" if s.name in WORDS else "moves the curve, removes none"
        for s in filtered(made)[1:]
    ]  # fmt: skip
    last = filtered(made)[-1]
    assert read(tab.locator(".sum span")) == (
        f"{last.left} of 300 tokens are left; the model gives them {percent(last.kept_prob)}."
    )
    tab.locator("[aria-label='All candidates']").evaluate("box => (box.scrollTop = box.scrollHeight)")
    tab.get_by_role("cell", name="300", exact=True).first.wait_for()
    tab.wait_for_timeout(300)
    assert shown_rows(tab)[-1] == rows(plain, made, 299, 1)[0]
    tab.get_by_role("button", name="Go to the drawn token").click()
    tab.wait_for_timeout(300)
    marked = tab.locator("tr.drawn td").first
    assert read(marked) == str(next(c.rank for c in made.window(0, 300) if c.id == int(made.ids[0])) + 1)


def test_each_slider_acts_and_each_draw_follows(page: Open, plain: LM):
    tab = page(f"{STATE}&open=7&focus=t5")
    again = tab.get_by_role("button", name="Draw again")
    again.wait_for()
    for index in (1, 2, 3):
        again.click()
        tab.get_by_text(f"draw {index + 1} of this seed").wait_for()
        tab.wait_for_timeout(300)
        drawn_as_said(tab, chosen(plain, 5, index))
    settings = {}
    for label, name in (("Repetition penalty", "repetition_penalty"), ("Temperature", "temperature"),
                        ("Top-k", "top_k"), ("Top-p", "top_p"), ("Min-p", "min_p")):  # fmt: skip
        slider = tab.get_by_role("slider", name=label)
        slider.focus()
        for _ in range(4):
            tab.keyboard.press("ArrowLeft" if name != "min_p" else "ArrowRight")
        value = float(slider.get_attribute("aria-valuetext"))
        settings[name] = int(value) if name == "top_k" else value
        assert settings[name] != DRAWN[name]
        tab.wait_for_timeout(300)
        assert shown_rows(tab) == rows(plain, chosen(plain, 5, 3, **settings), 0, 13), name
    tab.get_by_label("Draw", exact=True).uncheck()
    tab.get_by_text("nothing is drawn").wait_for()
    made = chosen(plain, 5, 3, **settings, do_sample=False)
    assert read(tab.locator(".sentence")).endswith(f": {visible(plain_text(made))}")
    tab.wait_for_timeout(400)
    tab.reload()
    tab.get_by_text("nothing is drawn").wait_for()


def steps_of(tab, text: int) -> list[str]:
    found = tab.locator(".texts .text").nth(text).locator("button")
    return [title.replace("\u00a0", " ") for title in found.evaluate_all("all => all.map(each => each.title)")]


def titles(plain: LM, out) -> list[str]:
    def one(step) -> str:
        probs, id = step.logits[0].double().softmax(-1), int(step.ids[0])
        rank = int((step.logits[0] > step.logits[0, id]).sum()) + 1
        return f"{visible(plain.token_text(id)) or f'id {id}'}: {percent(float(probs[id]))}, rank {rank}"

    return [one(step) for step in out.steps]


def test_text_is_written_forked_and_stopped(page: Open, plain: LM, running: Serving):
    tab = page(f"{STATE}&open=8")
    tab.get_by_label("New tokens").fill("12")
    tab.get_by_role("button", name="Generate").click()
    tab.get_by_text("12 tokens in").wait_for()
    out = plain.generate(TEXT, max_new_tokens=12, seed=5, **DRAWN)
    assert steps_of(tab, 0) == titles(plain, out)
    prompt = out.prompt.ids.shape[1]
    cells = table(tab, "Original")
    assert cells[11, 4] == said(prompt + 11)
    tab.locator(".texts .text button").nth(3).click()
    chip = tab.locator(".chip").first
    chip.wait_for()
    drawn_as_said(tab, out.steps[3])
    token = next(c.id for c in out.steps[3].window(0, 2) if c.id != int(out.steps[3].ids[0]))
    assert read(chip).split()[0] == visible(plain.token_text(token))
    chip.click()
    tab.locator(".texts.two").wait_for()
    tab.get_by_text("12 tokens in").nth(1).wait_for()
    assert steps_of(tab, 1) == titles(plain, plain.fork(out, 3, token))
    held = f"The cache held {prompt + 11} tokens; it was rewound to {prompt + 3}, not recomputed."
    assert read(tab.locator(".cache p").first).endswith(held)
    tab.get_by_label("New tokens").fill("500")
    slow = running.lm.decoder.unembed.register_forward_hook(lambda *_: time.sleep(0.02))  # not over before the click
    try:
        tab.get_by_role("button", name="Generate").click()
        tab.get_by_role("button", name="Stop").click()
        tab.get_by_text("; stopped.").wait_for()
    finally:
        slow.remove()
    assert 0 < len(steps_of(tab, 0)) < 500


@pytest.mark.parametrize("size", [LARGE, SMALL], ids=["wide", "narrow"])
def test_stop_keeps_its_place_and_the_focus_while_tokens_arrive(page: Open, size: dict[str, int]):
    tab = page(f"{STATE}&open=8", size)
    tab.get_by_label("New tokens").fill("120")
    button = tab.get_by_role("button", name="Generate")
    for _ in range(2):  # the second time from a long text, scrolled down
        button.evaluate("each => each.scrollIntoView({ block: 'center' })")
        watch(tab, "(it => [it.innerText, it.getBoundingClientRect().top])(document.querySelector('.ask button'))")
        button.press("Enter")
        tab.get_by_text("120 tokens in").wait_for()
        names, tops = zip(*tab.evaluate("seen"), strict=True)
        assert "Stop" in names
        assert max(tops) - min(tops) <= 2, sorted({*tops})
        assert button.evaluate("each => each === document.activeElement")


def test_the_lesson_tells_what_python_tells(page: Open, plain: LM):
    tab = page(f"{PROMPT}&panel=lesson")
    trace, logits = plain.trace(TEXT), plain.logits(TEXT)[0, -1]
    ids, last = plain.tokenize(TEXT).ids[0], len(plain.tokenize(TEXT).ids[0]) - 1
    ids_all = plain.tokenize(TEXT).ids[0].tolist()
    name = [
        f"“{p.visible}”" + (f", position {i}" if ids_all.count(ids_all[i]) > 1 else "")
        for i, p in enumerate(plain.tokenize(TEXT).pieces[0])
    ]
    other = plain.tokenize([TEXT, "The sun rises in the east"])
    sums = [sum(float(trace[f"blocks.{i}.{s}"][0, last].norm()) for i in range(3)) for s in ("attn_out", "mlp_out")]
    rows_TD = torch.nn.functional.normalize(trace["embed.token"][0], dim=-1)
    nearest = int((rows_TD[:last] @ rows_TD[last]).argmax())
    layer, head = divmod(int(score_heads(trace).by_name["previous"].argmax()), plain.config.n_heads)
    looks = int(trace[f"blocks.{layer}.attn.pattern"][0, head, last].argmax())
    top = int(logits.argmax())
    left = {
        t: filtered(choice(logits, plain.settings({"do_sample": True, "temperature": t, "top_k": 0, "top_p": 0.9,
                                                   "seed": 0}), seen=ids))[-1].left
        for t in (1.0, 0.5)
    }  # fmt: skip
    fewer = ("Fewer", "As many", "More")[1 + (left[0.5] > left[1.0]) - (left[0.5] < left[1.0])]
    truths = [
        str(len(plain.tokenize(TEXT.upper()).ids[0])), str(int((other.mask == 0).sum())),
        "Attention" if sums[0] > sums[1] else "The MLPs", name[nearest], "It stays the same", name[looks],
        f"“{visible(plain.token_text(top))}”", fewer,
    ]  # fmt: skip
    lesson = tab.locator(".lesson")
    for number, truth in enumerate(truths):
        lesson.get_by_text(f"{number + 1} of 8").wait_for()
        if lesson.locator(".option").count():
            lesson.locator(".option").first.click()
        else:
            lesson.locator("form input").fill("cat" if number == 6 else "7")
            lesson.get_by_role("button", name="See").click()
        lesson.locator("dd").nth(1).wait_for()
        assert read(lesson.locator("dd").nth(1)) == truth, number
        told = read(lesson.locator("[role=status]"))
        if number == 2:
            assert all(said(each) in told for each in sums)
        if number == 6:
            guess = int(plain.tokenize(" cat", add_special_tokens=False).ids[0, 0])
            probs = logits.double().softmax(-1)
            rank = int((logits > logits[guess]).sum()) + 1
            assert f"has rank {rank} of 300, with {percent(float(probs[guess]))}." in told
        if number == 7:
            assert f"keeps {left[1.0]} at temperature 1, {left[0.5]} at 0.5," in told
        lesson.locator("h2").focus()
        tab.keyboard.press("ArrowRight")
    tab.wait_for_timeout(400)
    tab.reload()
    lesson.get_by_text("8 of 8").wait_for()
    assert read(lesson.locator("dd").nth(1)) == truths[7]
    tab.get_by_label("Text for the model").fill("the dog")
    tab.keyboard.press("Enter")  # another sentence is asked about anew, and nothing open tells the answer
    lesson.locator(".option").first.wait_for()
    assert tab.locator(".body").count() == 0


@pytest.mark.parametrize("fragment", ["open=7", "open=8", "panel=lesson&lesson=5"])
def test_a_narrow_page_never_scrolls_sideways(page: Open, fragment: str):
    tab = page(f"{STATE}&{fragment}", SMALL)
    if "8" in fragment:
        tab.get_by_role("button", name="Generate").click()
        tab.get_by_text("40 tokens in").wait_for()
        tab.locator(".texts .text button").nth(3).click()
        tab.locator(".chip").first.wait_for()
    tab.wait_for_timeout(500)
    assert tab.evaluate("document.documentElement.scrollWidth") == SMALL["width"]
