"""Stages 4 to 6: every number read off the screen is the one that Python gives; by pointer, keyboard and table."""

import re
from urllib.parse import quote_plus

import pytest
import torch

from cutaway.analysis.logit_lens import lens_grid, logit_lens
from cutaway.analysis.neurons import strongest
from cutaway.explain.attention_row import attention_row
from cutaway.lm import LM
from tests.apps.server.conftest import tiny
from tests.web.test_first_stages import SMALL, Open, expected, page, plain, running, said, table, view

__all__ = ["page", "plain", "running", "tiny"]
TEXT = "the cat sat on the cat"
PROMPT = f"prompt={quote_plus(TEXT)}"
LAYER, HEAD, TOKEN = 1, 2, 4
FOCUS = f"{PROMPT}&focus=t{TOKEN}.l{LAYER}.h{HEAD}"
NAME = f"Block {LAYER}, head {HEAD}"


def words(lm: LM) -> list[str]:
    return [piece.visible for piece in lm.tokenize(TEXT).pieces[0]]


def shares(text: str, probability: float) -> bool:
    """Whether a share as it is shown, 43.2 %, is that probability rounded."""
    shown = text.replace("\xa0", " ").removesuffix(" %")
    decimals = len(shown.partition(".")[2])
    return abs(float(shown) - 100 * probability) <= 0.5001 * 10**-decimals


def test_heads_are_sorted_by_their_measured_role(page: Open, plain: LM):
    tab = page(f"{FOCUS}&open=4")
    roles = plain.view(TEXT).roles
    names = ("previous", "duplicate", "induction", "first", "self", "entropy")
    for label, role in (("induction", "induction"), ("entropy", "entropy"), ("first token", "first")):
        view(tab, "All heads").get_by_role("button", name=label, exact=True).click()
        order = roles[role][:, 0].flatten().argsort(descending=True, stable=True).tolist()
        cells = table(tab, "All heads")
        values = torch.stack([roles[name][:, 0].flatten() for name in names], 1)
        assert cells == expected(values[order], cells)
        assert len({row for row, _ in cells}) == 12
    scores = ", ".join(said(float(roles[name][LAYER, 0, HEAD])) for name in names)
    line = view(tab, "All heads").locator("output.said").inner_text()
    assert re.sub(r"[a-z ]+ ([\d.e+-]+)( nats)?( ·)?", r"\1,", line.partition(": ")[2]).strip(",") == scores.replace(
        ", ", ","
    )


def test_a_head_is_chosen_by_keyboard_and_a_reload_restores_the_order(page: Open):
    tab = page(f"{FOCUS}&open=4&views=heads.layer")
    heads = tab.get_by_role("listbox", name="Heads, sorted by block")
    heads.focus()
    tab.keyboard.press("ArrowDown")  # fewer blocks than heads: they stand below each other
    tab.get_by_role("heading", name="Block 2, head 2: weights").wait_for()
    view(tab, "All heads").get_by_role("button", name="itself").click()
    tab.wait_for_timeout(400)
    tab.reload()
    tab.get_by_role("heading", name="Block 2, head 2: weights").wait_for()
    assert view(tab, "All heads").get_by_role("button", name="itself").get_attribute("aria-pressed") == "true"


def test_arcs_and_matrix_are_the_heads_weights(page: Open, plain: LM):
    tab = page(f"{FOCUS}&open=4")
    trace, tokens = plain.trace(TEXT), words(plain)
    told = [f"{word} ({i})" if tokens.count(word) > 1 else word for i, word in enumerate(tokens)]
    pattern = trace[f"blocks.{LAYER}.attn.pattern"][0, HEAD]
    arcs = view(tab, f"{NAME}: which word reads which")
    arcs.locator("canvas").wait_for()
    arcs.get_by_role("listbox").focus()
    for position in (TOKEN, TOKEN - 1):
        best = pattern[position].topk(min(5, position + 1))
        read = [
            f"{told[i]} {said(w)}"
            for w, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            if w >= 0.002
        ]
        assert arcs.locator("output").inner_text() == f"{told[position]} reads {', '.join(read)}"
        tab.keyboard.press("ArrowLeft")
        tab.wait_for_timeout(100)
    assert "21 weights" in arcs.locator(".note").inner_text()  # of 6 × 6, half of them masked
    for button, site in (("weights", "pattern"), ("scores", "scores")):
        view(tab, f"{NAME}: weights").get_by_role("button", name=button, exact=True).click()
        cells = table(tab, f"{NAME}: {button}")
        assert len(cells) == 36
        assert cells == expected(trace[f"blocks.{LAYER}.attn.{site}"][0, HEAD], cells)


def test_greying_the_first_token_changes_no_weight(page: Open, plain: LM):
    tab = page(f"{FOCUS}&open=4")
    pattern = plain.trace(TEXT)[f"blocks.{LAYER}.attn.pattern"][0, HEAD]
    before = table(tab, f"{NAME}: weights")
    tab.get_by_label("Grey the first token").check()
    note = tab.get_by_text("Greyed: the weights on the first token").inner_text()
    assert shares(re.findall(r"[\d.]+\s%", note)[0], float(pattern[:, 0].mean()))
    assert table(tab, f"{NAME}: weights") == before
    arcs = view(tab, f"{NAME}: which word reads which")
    assert arcs.locator("output").inner_text().endswith(f"greyed: the {said(float(pattern[TOKEN, 0]))}")
    assert "15 weights" in arcs.locator(".note").inner_text()


def test_a_row_is_shown_step_by_step(page: Open, plain: LM):
    tab = page(f"{FOCUS}&open=4")
    row, trace = attention_row(plain.view(TEXT), LAYER, HEAD, TOKEN), plain.trace(TEXT)
    title = f"Row {TOKEN}, {words(plain)[TOKEN]}, step by step"
    lines = view(tab, title).get_by_role("row")
    lines.first.wait_for()
    width = plain.config.d_head
    for s, line in enumerate(lines.all()):
        cells = [cell.inner_text() for cell in line.get_by_role("cell").all()]
        assert cells == [said(float(x[s])) for x in (row.dots, row.scaled, row.scores, row.pattern)]
    assert s == 5
    assert f"2 ÷ √{width}" in view(tab, title).locator(".heads").inner_text()
    cells = table(tab, "Weights × values")
    last = max(r for r, _ in cells)
    z = trace[f"blocks.{LAYER}.attn.z"][0, TOKEN, HEAD]
    assert {c: text for (r, c), text in cells.items() if r == last} == {
        c: said(float(z[c])) for r, c in cells if r == last
    }
    lines.nth(2).get_by_role("button").last.click()
    tab.wait_for_timeout(400)
    assert f"site=blocks.{LAYER}.attn.pattern" in tab.url
    assert f"index={HEAD}.{TOKEN}.2" in tab.url


def test_a_weight_times_a_value_opens_the_value_and_the_last_row_z(page: Open, plain: LM):
    tab = page(f"{FOCUS}&open=4")
    row = attention_row(plain.view(TEXT), LAYER, HEAD, TOKEN)
    cell = view(tab, "Weights × values").get_by_role("gridcell")
    cell.focus()
    tab.keyboard.press("Enter")
    tab.wait_for_timeout(400)
    assert f"site=blocks.{LAYER}.attn.v&index={int(row.pattern.argmax())}.{row.kv_head}.0" in swapped(tab.url)
    cell.focus()
    tab.keyboard.press("PageDown")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    tab.wait_for_timeout(400)
    assert f"site=blocks.{LAYER}.attn.z&index={TOKEN}.{HEAD}.1" in swapped(tab.url)


def swapped(url: str) -> str:
    """Its site and index, in this order."""
    parts = dict(part.split("=", 1) for part in url.partition("#")[2].split("&"))
    return f"site={parts['site']}&index={parts['index']}"


def test_mlp_sizes_and_neurons(page: Open, plain: LM):
    tab = page(f"{FOCUS}&open=5")
    trace = plain.trace(TEXT)
    sizes = torch.stack([trace[f"blocks.{i}.mlp_out"][0].norm(dim=-1) for i in range(3)])
    cells = table(tab, "What each MLP adds")
    assert len(cells) == 18
    assert cells == expected(sizes, cells)
    cards = tab.locator(".cards > li")
    cards.first.wait_for()
    found = strongest(trace, plain.decoder, LAYER, TOKEN)
    for card, neuron in zip(cards.all(), found, strict=True):
        values = [neuron.pre, neuron.pre_linear, neuron.post]
        assert card.locator(".number").inner_text() == str(neuron.neuron)
        assert card.locator(".size").inner_text() == f"adds {said(neuron.size)}"
        assert [each.inner_text() for each in card.locator(".values button").all()] == [said(x) for x in values]
        for name in ("reads", "promotes", "suppresses"):
            chips = [each.inner_text() for each in card.locator(f"dd.{name} .chip").all()]
            assert chips == [f"{plain.piece(id)} {said(value)}" for id, value in getattr(neuron, name)]
    cards.first.locator(".values button").last.click()
    tab.wait_for_timeout(400)
    assert f"site=blocks.{LAYER}.mlp.post" in tab.url
    assert f"index={TOKEN}.{found[0].neuron}" in tab.url


def test_the_logit_lens_by_keyboard(page: Open, plain: LM):
    tab = page(f"{FOCUS}&open=6")
    trace, tokens = plain.trace(TEXT), words(plain)
    grid = lens_grid(trace, plain.decoder, range(6))
    cells = table(tab, "Logit lens")
    assert len(cells) == 24
    for (row, column), text in cells.items():
        word, _, share = text.partition(" ")
        assert word == plain.piece(int(grid.ids[row, column]))
        assert shares(share, float(grid.probability[row, column]))
    lens = tab.get_by_role("grid", name="Logit lens")
    lens.focus()
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("ArrowDown")
    title = f"After block {LAYER + 1}, at {tokens[TOKEN - 1]}"
    rows = view(tab, title).locator("tbody tr")
    rows.first.wait_for()
    logits = logit_lens(trace, plain.decoder, torch.tensor([TOKEN - 1]))[LAYER + 2, 0]
    best = logits.softmax(-1).topk(10)
    for row, id, share in zip(rows.all(), best.indices.tolist(), best.values.tolist(), strict=True):
        word, logit, percent = (cell.inner_text() for cell in row.locator("th, td").all())
        assert (word, logit) == (plain.piece(id), said(float(logits[id])))
        assert shares(percent, share)


@pytest.mark.parametrize(("button", "by"), [("block",) * 2, ("head",) * 2, ("word read", "token"), ("neuron",) * 2])
def test_the_parts_of_a_logit_sum_to_it(page: Open, plain: LM, button: str, by: str):
    tab = page(f"{FOCUS}&open=6")
    answer, against = plain.tokenize(" mat").ids[0, 0].item(), plain.tokenize(" dog").ids[0, 0].item()
    for label, word in (("Answer", "␣mat"), ("against", " dog")):
        tab.get_by_label(label, exact=True).fill(word)
        tab.get_by_label(label, exact=True).press("Tab")
    tab.locator(".stage").get_by_role("button", name=button, exact=True).click()
    title = f"Logit of ␣mat minus that of ␣dog, by {button}"
    tab.get_by_role("heading", name=title, exact=True).wait_for()
    found = plain.attribute(TEXT, [answer], [against], by=by, position=TOKEN).to_dict()
    gives = sorted((part["gives"] for part in found["parts"]), key=abs, reverse=True)
    shown = [float(each.text_content().replace("−", "-")) for each in view(tab, title).locator("text.value").all()]
    rest = [sum(gives[20:])] if len(gives) > 20 else []
    assert shown == pytest.approx([*gives[:20], *rest, found["logit"]], abs=0.00501)
    note = view(tab, title).locator(".note").inner_text()
    assert f"{len(gives)} parts sum to {found['logit']:.2f}" in note
    assert all(part["part"] for part in found["parts"])
    tab.wait_for_timeout(400)
    tab.reload()  # the address keeps the two words
    tab.get_by_role("heading", name=title, exact=True).wait_for()


def test_a_word_without_its_space_is_told_and_the_other_token_offered(page: Open, plain: LM):
    tab = page(f"{FOCUS}&open=6")
    assert plain.tokenize("mat").ids.shape == plain.tokenize(" mat").ids.shape == (1, 1)
    known = {plain.piece(id) for id in plain.trace(TEXT)["logits"][0, TOKEN].topk(5).indices.tolist()}
    word = next(each for each in ("the", "cat", "mat", "dog", "sat") if f"␣{each}" not in known | {each})
    tab.get_by_label("Answer", exact=True).fill(word)
    tab.get_by_label("Answer", exact=True).press("Tab")
    tab.get_by_role("button", name=f"Take ␣{word}").click()
    tab.get_by_role("heading", name=f"Logit of ␣{word}, by block", exact=True).wait_for()


def test_what_is_no_single_token_is_a_sentence(page: Open):
    tab = page(f"{FOCUS}&open=6")
    tab.get_by_label("Answer", exact=True).fill("zebra zebra")
    tab.get_by_label("Answer", exact=True).press("Tab")
    assert "expected one" in tab.get_by_role("alert").inner_text()


@pytest.mark.parametrize("stage", [4, 5, 6])
def test_a_narrow_page_never_scrolls_sideways(page: Open, stage: int):
    tab = page(f"{FOCUS}&open={stage}", SMALL)
    tab.wait_for_timeout(800)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
