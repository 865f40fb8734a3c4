"""What the stages and the lesson say of models unlike the default one, of long texts and of edits: true, or not said.

The numbers of a plain run are tested in test_first_stages.py, test_inner_stages.py and test_last_stages.py.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import quote_plus

import pytest
import torch

from cutaway.apps.server.page import FOLDER
from cutaway.explain.attention_row import attention_row
from cutaway.lm import LM, load
from tests.apps.server.conftest import serving, tiny
from tests.model_types import drawn
from tests.tiny import TEXT as WORDS
from tests.tiny import build, save_tokenizer
from tests.web.test_first_stages import PROMPT, TEXT, Open, page, plain, running, said, table, view

__all__ = ["page", "plain", "running", "tiny"]
OPTIONS = {"gpt_oss": {}, "bloom": {}, "qwen3": {}, "mixtral": {}, "gemma2": {"attn_logit_softcapping": 2.0}}
Model = Callable[[str, str], tuple[object, LM]]


@pytest.fixture(scope="module")
def model(browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """model(type, fragment): the page of a tiny random model of that type, and the model."""
    with ExitStack() as stack:
        known, contexts = {}, []

        def opened(kind: str, fragment: str) -> tuple[object, LM]:
            if kind not in known:
                folder = tmp_path_factory.mktemp(kind)
                build(drawn(kind, 0, **WORDS, **OPTIONS[kind]), scale=0.15).save_pretrained(folder)
                save_tokenizer(folder)
                read = lambda folder=folder: load(folder, quantize=None, dtype="float32", device="cpu")  # noqa: E731
                known[kind] = stack.enter_context(serving(read(), folder=FOLDER)), read()
            server, lm = known[kind]
            contexts.append(browser.new_context(viewport={"width": 1440, "height": 900}))
            tab = contexts[-1].new_page()
            tab.goto(f"http://127.0.0.1:{server.guard.port}/#{PROMPT}&{fragment}")
            tab.locator(".river").wait_for()
            return tab, lm

        yield opened
        for context in contexts:
            context.close()


def line(tab, stage: int) -> str:
    """What a stage says in one line."""
    return tab.locator(f"#stage-{stage} .line").inner_text()


def test_the_line_of_the_logits_is_of_the_chosen_token_or_of_none(page: Open):
    text = quote_plus(" ".join(["the cat sat on"] * 40))
    assert line(page(f"prompt={text}&focus=t0&open=1"), 7) == "300 logits at each token"
    assert "gets" in line(page(f"{PROMPT}&focus=t0&open=1"), 7)


def test_alibi_is_not_called_a_rotation(model: Model):
    tab, lm = model("bloom", "open=2&focus=l1.h2")
    assert "rotat" not in line(tab, 2) + tab.locator(".stage .body").inner_text()
    cells = table(tab, "Scores, with their positions’ part")
    assert cells[5, 3] == said(float(lm.trace(TEXT)["attn.scores", 1, 2][0, 5, 3]))
    assert tab.get_by_role("alert").count() == 0
    tab, lm = model("bloom", "panel=lesson&lesson=4")
    lesson = tab.locator("article.lesson")
    assert "ALiBi" in lesson.inner_text() and "rotat" not in lesson.inner_text()
    lesson.locator(".option").first.click()
    lesson.locator("dd").nth(1).wait_for()
    row = attention_row(lm.view(TEXT), 0, 0, 5)
    assert row.slope is not None
    assert f"{said(row.slope * 5)} is added to the one, 0 to the other" in lesson.inner_text()
    torch.testing.assert_close(row.scores - row.scaled, row.slope * torch.arange(6.0))


def test_before_rotation_is_the_normed_query(model: Model):
    tab, lm = model("qwen3", "open=2&focus=l1.h2")
    normed = lm.trace(TEXT)["blocks.1.attn.q_norm.out"][0, :, 2]
    cells = table(tab, "q before rotation")
    assert cells and all(text == said(float(normed[at])) for at, text in cells.items())
    tab, lm = model("qwen3", "panel=lesson&lesson=4")
    lesson = tab.locator("article.lesson")
    lesson.locator(".option").last.click()
    lesson.locator("dd").nth(1).wait_for()
    assert f"{said(float(lm.trace(TEXT)['blocks.0.attn.q_norm.out'][0, 5, 0].norm()))} before" in lesson.inner_text()


def test_a_mixture_shows_the_experts_that_were_chosen(model: Model):
    tab, lm = model("mixtral", "open=5&focus=t3.l1")
    scores = lm.trace(TEXT)["blocks.1.mlp.router_scores"][0, 3]
    chosen = tab.locator(".chosen li")
    chosen.first.wait_for()
    best = sorted((int(i) for i in scores.nonzero()[:, 0]), key=lambda i: -float(scores[i]))
    assert chosen.all_inner_texts() == [f"expert {i} {said(float(scores[i]))}" for i in best]
    assert line(tab, 5).startswith("3 mixtures of experts")
    view(tab, "Router scores").locator("canvas").first.wait_for()
    assert tab.get_by_role("alert").count() == 0


@pytest.mark.parametrize(("kind", "steps"), [("bloom", "ALiBi, mask"), ("gemma2", "cap, mask")])
def test_what_acts_on_a_score_besides_its_scale_is_named(model: Model, kind: str, steps: str):
    tab, lm = model(kind, "open=4&focus=t4.l1.h2")
    row = attention_row(lm.view(TEXT), 1, 2, 4)
    step = tab.locator(".view").filter(has=tab.get_by_role("heading", name="step by step"))
    cells = step.get_by_role("row").nth(3).get_by_role("cell")
    cells.first.wait_for()
    assert cells.all_inner_texts() == [said(float(x[3])) for x in (row.dots, row.scaled, row.scores, row.pattern)]
    assert f"3 {steps}" in step.locator(".heads").inner_text()


def test_a_sink_has_its_share_of_a_row(model: Model):
    tab, lm = model("gpt_oss", "open=4&focus=t4.l1.h2")
    row = attention_row(lm.view(TEXT), 1, 2, 4)
    assert row.sink is not None
    body = tab.locator(".stage .body")
    body.get_by_role("heading", name="Weights × values").wait_for()
    words = " ".join(body.inner_text().split())
    share = 1 - float(row.pattern.double().sum())
    assert f"a learned score of {said(row.sink)}, takes a share of {said(share)}, and has no value" in words
    assert "each row sums to 1" not in words and "share of the head’s sink sum to 1" in words


@pytest.mark.parametrize(
    ("site", "gone"),
    [
        ("*attn.z", "they sum to z"),
        ("attn.pattern", "Each weight is"),
        ("attn.pattern", "the weights sum to 1"),
        ("attn.pattern", "each row sums to 1"),
    ],
)
def test_under_an_edit_a_row_claims_nothing_that_it_undid(page: Open, site: str, gone: str):
    edits = quote_plus(json.dumps([{"site": site, "op": "scale", "value": 0.5}]))
    stage = f"{PROMPT}&open=4&focus=t4.l1.h2"
    body = [page(f"{stage}{more}").locator(".stage .body") for more in ("", f"&edits={edits}")]
    for each in body:
        each.get_by_role("heading", name="Weights × values").wait_for()
    plain, edited = (each.inner_text() for each in body)
    assert gone in plain and gone not in edited
    assert "A change acts" in edited or "a change acts" in edited


def test_the_curves_name_the_token_of_each_rank(page: Open):
    settings = quote_plus(json.dumps({"repetition_penalty": 1.5}))
    tab = page(f"{PROMPT}&open=7&settings={settings}")
    curves = tab.get_by_role("slider", name="Rank in the vocabulary")
    curves.focus()
    words = curves.get_attribute("aria-valuetext")
    assert "the model’s rank-1 token gets" in words and "the rank-1 token after the filters" in words


def test_a_reload_draws_the_same(page: Open):
    tab = page(f"{PROMPT}&open=7&seed=5&settings=%7B%22do_sample%22%3Atrue%7D")
    again = tab.get_by_role("button", name="Draw again")
    for _ in range(11):
        again.click()
    tab.get_by_text("draw 12 of this seed").wait_for()
    sentence = tab.locator(".sentence").inner_text()
    tab.wait_for_timeout(400)
    tab.reload()
    tab.get_by_text("draw 12 of this seed").wait_for()
    tab.get_by_text(sentence, exact=True).wait_for()


def test_no_old_choice_stands_under_a_new_title(page: Open):
    tab = page(f"{PROMPT}&open=7&focus=t1")
    view(tab, "Next token after “␣cat”").wait_for()
    tab.evaluate("WebSocket.prototype.send = () => {}")  # no answer will come
    tab.evaluate("location.hash = location.hash.replace('t1', 't3')")
    tab.wait_for_timeout(400)
    assert "␣on" in tab.locator(".stage .about").first.inner_text()
    assert view(tab, "Next token after “␣cat”").count() == 1  # what is shown is still that choice


def test_what_has_no_logarithm_is_marked(page: Open):
    edits = quote_plus(json.dumps([{"site": "blocks.1.attn_out", "op": "zero"}]))
    tab = page(f"{PROMPT}&open=3&edits={edits}")
    column = tab.get_by_role("radio", name="Block 1: attention adds 0,")
    assert column.locator("circle.attention").count() == 0 and column.locator(".odd").text_content() == "0"
    assert tab.get_by_role("radio", name="Block 0: attention").locator("circle.attention").count() == 1


def test_a_pooled_thumbnail_says_which_tokens_are_greyed(page: Open, plain: LM):
    text = " ".join(["the cat sat on"] * 80)
    most = plain.tokenize(text).ids.shape[1] // 64 - 1
    heads = view(page(f"prompt={quote_plus(text)}&open=4&views=first.grey"), "All heads")
    assert most > 1 and f"the first column, tokens 0–{most}." in heads.inner_text()
    assert "The largest weight of each cell" in heads.inner_text()
    heads = view(page(f"{PROMPT}&open=4&views=first.grey"), "All heads")
    assert "Greyed here" not in heads.inner_text() and "Each weight" in heads.inner_text()


@pytest.mark.parametrize("stage", [1, 3, 4, 5, 6])
def test_every_view_has_its_other_forms_and_its_python_runs(page: Open, plain: LM, stage: int, monkeypatch):
    monkeypatch.setattr("cutaway.load", lambda *_, **__: plain)
    tab = page(f"{PROMPT}&open={stage}&focus=t2.l1.h2")
    views = tab.locator(".stage .view")
    views.first.wait_for()
    tab.wait_for_timeout(400)
    tab.evaluate("navigator.clipboard.writeText = async (text) => (window.copied = text)")
    given = {}
    for each in views.all():
        title = each.get_by_role("heading").first.inner_text()
        if title == "Two texts in one batch":  # none is given
            continue
        for form in ("As table", "PNG", "SVG"):
            each.get_by_role("button", name=form, exact=True).wait_for()
        each.get_by_role("button", name="Copy as Python").click()
        each.get_by_text("Python copied").wait_for()
        *before, last = tab.evaluate("window.copied").splitlines()
        exec("\n".join(before), names := {})
        given[title] = eval(last, names) if "=" not in last.split("(")[0] else None
    view = plain.view(TEXT)
    for title in given.keys() & {"Attention, for every token", "MLP, for every token", "What each MLP adds"}:
        assert torch.equal(given[title], view.sizes["attn_out" if title.startswith("Att") else "mlp_out"][:, 0])
    if stage == 1:
        made = plain.tokenizer.merges(view.tokens.pieces[0])[0]
        assert [each for each in made if each.piece == 2] in given.values()
    elif stage == 4:
        assert torch.equal(given["All heads"][1], view.thumbnails[:, 0])
    elif stage == 6:
        assert given["Logit lens"].ids.shape == (plain.config.n_layers + 1, 6)
