"""Beside the river: any number, changes and patches, 8 bits. What the screen says is what Python gives."""

import json
import math
import re
from urllib.parse import quote_plus

import pytest
import torch

from cutaway import Edit
from cutaway.analysis.cone import cone
from cutaway.apps.server.page import FOLDER
from cutaway.lm import LM, load
from cutaway.quant.explain import explain, int8_layers, layer_input, layer_input_sites
from tests.apps.server.conftest import serving, tiny
from tests.web.test_first_stages import LARGE, SMALL, Open, expected, page, plain, running, said, table, view, watch
from tests.web.test_last_stages import percent

__all__ = ["page", "plain", "running", "tiny"]
TEXT, OTHER = "the cat sat on the mat", "the dog sat on the mat"
PROMPT = f"prompt={quote_plus(TEXT)}&otherPrompt={quote_plus(OTHER)}"
HEAD = {"site": "blocks.1.attn.z", "op": "zero", "head": 2}
LAST = -1


def nats(text: str) -> float:
    return float(re.search(r"= (\S+) nats", text)[1])  # type: ignore[index]


def kl(one: torch.Tensor, other: torch.Tensor) -> float:
    p, q = one.double().log_softmax(-1), other.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum())


def changes(tab) -> list[str]:
    return [field.input_value() for field in tab.locator("input.name").all()]


@pytest.fixture
def full(tiny) -> LM:
    return load(tiny, quantize=None, dtype="float32", device="cpu")


def test_a_number_is_reached_read_and_left_by_keyboard(page: Open, plain: LM):
    tab = page(f"{PROMPT}&open=2")
    cell = view(tab, "Token vectors").get_by_role("gridcell")
    cell.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Enter"):
        tab.keyboard.press(key)
    panel = tab.get_by_role("complementary", name="Any number")
    value = float(plain.trace(TEXT)["embed.token"][0, 1, 2])
    assert panel.locator(".value").inner_text() == said(value)
    assert tab.evaluate("document.activeElement.textContent") == "embed.token"
    tab.keyboard.press("Escape")
    assert panel.count() == 0
    assert tab.evaluate("document.activeElement.role") == "gridcell"


NUMBERS = {
    "blocks.1.mlp_out": (3, 5), "blocks.2.attn.pattern": (1, 4, 2), "logits": (2, 7), "blocks.0.attn.rot_q": (3, 1, 4),
    "blocks.0.attn.scores": (0, 1, 3),
}  # fmt: skip


@pytest.mark.parametrize("site, index", NUMBERS.items(), ids=NUMBERS)
def test_a_number_says_what_why_says(page: Open, plain: LM, site: str, index: tuple[int, ...]):
    tab = page(f"{PROMPT}&site={site}&index={'.'.join(map(str, index))}")
    panel = tab.get_by_role("complementary", name="Any number")
    panel.locator(".value").wait_for()
    why = plain.why(plain.view(TEXT), site, 0, *index)
    assert panel.locator(".formula").inner_text() == f"= {why.formula}"
    stored, again, apart = panel.locator("dd").all_inner_texts()
    if math.isfinite(why.value):
        assert torch.tensor([float(stored), float(again)]).tolist() == [why.value, why.recomputed]
    assert apart == ("0, exactly" if why.difference == 0 else said(why.difference))
    terms = sorted(why.terms, key=lambda term: -abs(term.contribution))[:50]
    shown = [row.locator("td:not(.bar)").all_inner_texts() for row in panel.locator("tbody tr").all()]
    factors = any(term.factor is not None for term in terms)
    for cells, term in zip(shown, terms, strict=True):
        numbers = [said(term.value), said(term.factor or 0)] if factors else []
        codes = [f"{term.codes[0]} · {term.codes[1]}"] if term.codes else []
        assert cells == [*numbers, said(term.contribution), *codes]


def test_parents_lead_on_and_back(page: Open, plain: LM):
    tab = page(f"{PROMPT}&site=blocks.1.attn.z&index=4.2.3")
    panel = tab.get_by_role("complementary", name="Any number")
    panel.get_by_role("button", name="blocks.1.attn.v[:, 1, 3]").click()
    strip = panel.get_by_role("grid", name="blocks.1.attn.v, as read").get_by_role("gridcell")
    strip.focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    value = panel.locator(".value")
    tab.get_by_role("heading", name="blocks.1.attn.v").wait_for()
    value.wait_for()
    assert value.inner_text() == said(float(plain.trace(TEXT)["blocks.1.attn.v"][0, 1, 1, 3]))
    panel.get_by_role("button", name="Back to blocks.1.attn.z[4, 2, 3]").click()
    tab.get_by_role("heading", name="blocks.1.attn.z").wait_for()


def test_a_head_set_to_zero_beside_the_original(page: Open, plain: LM):
    tab = page(f"{PROMPT}&panel=change&focus=l1.h2")
    tab.get_by_role("button", name="head 2 of block 1").click()
    line = tab.get_by_text("KL(before")
    line.wait_for()
    edit = Edit.zero("blocks.1.attn.z", head=2)
    before, after = plain.view(TEXT), plain.view(TEXT, edits=[edit])
    one, two = before.logits_at(LAST)[0], after.logits_at(LAST)[0]
    assert nats(line.inner_text()) == pytest.approx(kl(one, two), rel=0.005)
    cells = table(tab, "Before and after")
    rows = sorted({row for row, _ in cells}, key=int)
    ids = [int(cells[row, 0].replace(",", "")) for row in rows]
    assert {*ids} == {*one.topk(5).indices.tolist(), *two.topk(5).indices.tolist()}
    for row, id in zip(rows, ids, strict=True):
        probs = [float(each.double().softmax(-1)[id]) for each in (one, two)]
        assert [float(cells[row, 1]), float(cells[row, 2])] == pytest.approx(probs, rel=0.005)
    cells = table(tab, "How far it reaches")
    assert cells and cells == expected(cone(after, before)[:, 0], cells)
    tab.get_by_role("button", name="Write with and without").click()
    tab.get_by_text(re.compile("They part|The same 24")).wait_for()
    texts = tab.locator("aside dd").all_inner_texts()
    written = [plain.generate(TEXT, max_new_tokens=24, do_sample=False, edits=e).text for e in ([], [edit])]
    assert [text.strip() for text in texts] == [text.strip() for text in written]


def test_a_change_leaves_the_page_as_high_as_it_was(page: Open):
    tab = page(f"{PROMPT}&panel=change&open=5&focus=l1.h2")
    tab.get_by_text("Neuron").first.wait_for()
    tab.wait_for_timeout(500)
    watch(tab, "document.documentElement.scrollHeight")
    tab.get_by_role("button", name="head 2 of block 1").click()
    tab.get_by_text("KL(before").wait_for()
    tab.wait_for_timeout(500)
    heights = tab.evaluate("seen")
    assert min(heights) >= min(heights[0], heights[-1]) - 2, sorted({*heights})


def held_back(tab, after: int):
    """The page again, on a connection that passes so many steps of a text on, then nothing until one is cancelled."""
    seen = {"steps": 0, "cancelled": 0}

    def proxied(socket):
        server = socket.connect_to_server()

        def asked(text):
            seen["cancelled"] |= seen["steps"] > 0 and json.loads(text)["ask"] == "cancel"
            server.send(text)

        def answered(frame):
            seen["steps"] += isinstance(frame, bytes) and b'\\"step' in frame
            if seen["cancelled"] or seen["steps"] <= after:
                socket.send(frame)

        socket.on_message(asked)
        server.on_message(answered)

    tab.route_web_socket(re.compile("/ws$"), proxied)
    tab.reload()
    tab.locator(".river").wait_for()


def test_texts_that_were_stopped_are_not_compared_and_can_be_written_again(page: Open):
    tab = page(f"{PROMPT}&panel=change&edits={quote_plus(json.dumps([HEAD]))}")
    held_back(tab, after=6)
    write = tab.get_by_role("button", name="Write with and without")
    write.click()
    tab.locator("aside").get_by_role("button", name="Stop").click()
    assert tab.locator("aside dd").first.inner_text().strip()
    verdict = tab.get_by_text(re.compile("They part|The same"))
    assert verdict.count() == 0
    write.click()
    verdict.wait_for()
    assert write.count() == 0


def test_changes_are_undone_named_switched_off_and_in_the_address(page: Open):
    tab = page(f"{PROMPT}&panel=change&edits={quote_plus(json.dumps([HEAD]))}")
    kl_line = tab.get_by_text("KL(before")
    kl_line.wait_for()
    first = nats(kl_line.inner_text())
    tab.get_by_role("button", name="position 5 after block 1").wait_for(state="detached")  # no block is chosen
    tab.get_by_role("button", name="the embedding of position").click()
    tab.locator("input.name").nth(1).wait_for()
    tab.wait_for_function("first => !document.body.innerText.includes(`= ${first} nats`)", arg=said(first))
    tab.keyboard.press("Control+z")
    tab.wait_for_function("first => document.body.innerText.includes(`= ${first} nats`)", arg=said(first))
    assert changes(tab) == ["zero on blocks.1.attn.z at head 2"]
    tab.locator("input.name").fill("my head")
    tab.keyboard.press("Enter")
    tab.get_by_role("checkbox", name="my head: on").uncheck()
    kl_line.wait_for(state="detached")
    tab.wait_for_timeout(400)
    tab.reload()
    tab.locator("input.name").wait_for()
    assert changes(tab) == ["my head"] and not tab.get_by_role("checkbox", name="my head: on").is_checked()


def test_a_change_that_no_site_has_is_a_sentence_and_is_not_kept(page: Open):
    tab = page(f"{PROMPT}&panel=change")
    tab.get_by_text("Another change").click()
    tab.locator("aside").get_by_role("textbox", name="block").fill("77")
    tab.get_by_role("button", name="Change", exact=True).click()
    alert = tab.locator("aside").get_by_role("alert")
    alert.wait_for()
    assert "expected blocks of 0 to 2, not 77" in alert.inner_text()
    assert changes(tab) == []


@pytest.mark.parametrize("mouse", [True, False], ids=["dragged", "by keyboard"])
def test_a_cell_of_a_is_patched_into_b(page: Open, plain: LM, mouse: bool):
    tab = page(f"{PROMPT}&panel=change")
    tab.get_by_role("button", name="Run A").click()
    grids = [tab.get_by_role("grid", name=name).get_by_role("gridcell") for name in ("A: take from", "B: put into")]
    grids[0].wait_for(state="attached")
    (row, column), target = (2, 1), 3  # after block 1
    if mouse:
        places = []
        for grid in grids:
            box = grid.bounding_box()
            length, width = len(plain.tokenize(OTHER).ids[0]), len(plain.tokenize(TEXT).ids[0])
            places.append((box, (length, width)[len(places)]))
        tab.locator(".grids").scroll_into_view_if_needed()
        (one, columns), (two, into) = [
            (grid.bounding_box(), count) for grid, (_, count) in zip(grids, places, strict=True)
        ]
        tab.mouse.move(one["x"] + one["width"] * (column + 0.5) / columns, one["y"] + one["height"] * (row + 0.5) / 4)
        tab.mouse.down()
        tab.mouse.move(two["x"] + 9, two["y"] + 9, steps=4)
        tab.mouse.move(two["x"] + two["width"] * (target + 0.5) / into, two["y"] + two["height"] * 0.5, steps=4)
        tab.mouse.up()
    else:
        for grid, keys in zip(
            grids, (["Home", "ArrowDown", "ArrowDown", "ArrowRight"], ["Home", *["ArrowRight"] * 3]), strict=True
        ):
            grid.focus()
            for key in (*keys, "Enter"):
                tab.keyboard.press(key)
        tab.get_by_role("button", name="Patch here").press("Enter")
    line = tab.get_by_text("KL(before")
    line.wait_for()
    assert changes(tab) == [
        f"patch on blocks.1.resid_post at position {target} from the other prompt, position {column} there"
    ]
    value = plain.trace(OTHER)["blocks.1.resid_post"][0, column]
    edit = Edit.set("blocks.1.resid_post", value, position=target)
    before, after = (plain.view(TEXT, edits=edits).logits_at(LAST)[0] for edits in ([], [edit]))
    assert nats(line.inner_text()) == pytest.approx(kl(before, after), rel=0.005)
    with tab.expect_download() as file:
        tab.get_by_role("button", name="Save for --edits").click()
    saved = plain.view(TEXT, edits=str(file.value.path()))
    assert torch.equal(saved.logits_at(LAST)[0], after)


def test_a_recipe_is_read_as_what_anyone_may_have_written(page: Open):
    tab = page(f"{PROMPT}&panel=change")
    chooser = tab.locator("input[type=file]")
    for text in (
        "{",
        '[{"site": "../../etc/passwd", "op": "zero"}]',
        '[{"site": "logits", "op": "function"}]',
        "[[[[]]]]",
    ):
        chooser.set_input_files([{"name": "x.json", "mimeType": "application/json", "buffer": text.encode()}])
        tab.locator("aside").get_by_role("alert").first.wait_for()
        assert changes(tab) == []
    chooser.set_input_files([{"name": "x.json", "mimeType": "application/json", "buffer": json.dumps([HEAD]).encode()}])
    tab.get_by_text("KL(before").wait_for()
    assert changes(tab) == ["zero on blocks.1.attn.z at head 2"]


def test_both_precisions_side_by_side(page: Open, plain: LM, full: LM):
    tab = page(f"{PROMPT}&panel=eight")
    assert "loads a second model" in tab.locator("aside .cost").first.inner_text()
    tab.get_by_role("button", name="Compare").click()
    view(tab, "Error of every site").wait_for()
    eight, whole = plain.trace(TEXT), full.trace(TEXT)
    cells = table(tab, "The next token")
    kls = [[kl(whole["logits"][0, t], eight["logits"][0, t]) for t in range(len(eight["logits"][0]))]]
    assert {place: pytest.approx(float(text), rel=0.01) for place, text in cells.items()} == {
        (row, column): kls[row][column] for row, column in cells
    }
    cells = table(tab, "Error of every site")
    view(tab, "Error of every site").get_by_role("button", name="As table").click()
    names = view(tab, "Error of every site").locator("tbody th").all_inner_texts()
    for (row, column), text in cells.items():
        one, two = (each[f"blocks.{column}.{names[row]}"].double() for each in (whole, eight))
        finite = one.isfinite()
        relative = float((one - two)[finite].norm() / one[finite].norm())
        assert float(text) == pytest.approx(relative, rel=0.01), (names[row], column)
    site = "blocks.2.mlp.post"
    tab.get_by_role("combobox", name="Site").select_option(site)
    view(tab, f"8 bits − full: {site}").wait_for()
    for name, values in (
        ("Full precision", whole[site]),
        ("8 bits", eight[site]),
        ("8 bits − full", eight[site] - whole[site]),
    ):
        cells = table(tab, f"{name}: {site}")
        assert cells and cells == expected(values[0], cells)


@pytest.mark.parametrize("quantize, strip", [("int8", "8 bits"), (None, "Full precision")])
def test_the_strip_of_the_run_s_own_precision_is_looked_into(browser, tiny, quantize: str | None, strip: str):
    model = load(tiny, quantize=quantize, dtype="float32", device="cpu")
    site, head = "blocks.1.attn.pattern", 2
    with serving(model, folder=FOLDER) as server:
        tab = browser.new_page(viewport=LARGE)
        tab.goto(f"http://127.0.0.1:{server.guard.port}/#{PROMPT}&panel=eight&focus=h{head}")
        tab.get_by_role("button", name="Compare").click()
        tab.get_by_role("combobox", name="Site").select_option(site)
        for name in ("8 bits", "Full precision"):
            found = view(tab, f"{name}: {site}, head {head}")
            found.get_by_role("button", name="As table").click()
            assert (found.locator("td button").count() > 0) == (name == strip)
        view(tab, f"{strip}: {site}, head {head}").locator("td button").first.click()
        value = tab.get_by_role("complementary", name="Any number").locator(".value")
        value.wait_for()
        assert value.inner_text() == said(float(model.trace(TEXT)[site][0, head, 0, 0]))
        tab.context.close()


def test_a_layer_opened_to_its_codes(page: Open, plain: LM, full: LM):
    tab = page(f"{PROMPT}&panel=eight")
    name, at = "blocks.1.mlp.down", (0, len(plain.tokenize(TEXT).ids[0]) - 1)
    tab.get_by_role("combobox", name="Layer").select_option(name)
    view(tab, "The largest inputs").wait_for()
    if (button := tab.get_by_role("button", name="Each one's share")).count():  # full precision is not loaded yet
        button.click()
    tab.get_by_text("share of the error").first.wait_for()
    x = layer_input(plain.decoder, name, plain.trace(TEXT)[layer_input_sites(plain.config)[name]])
    inside = explain(int8_layers(plain.decoder)[name], x, full.decoder.get_submodule(name).weight.detach())
    cells = table(tab, "Codes")
    assert cells and cells == expected(inside.weight_codes, cells)
    cells = table(tab, "Scales")
    assert cells and cells == expected(inside.weight_scale.float(), cells)
    rows = [
        row.locator("td, th").all_inner_texts() for row in view(tab, "The largest inputs").locator("tbody tr").all()
    ]
    shares = inside.error_shares(at)
    largest, worst = (each.abs().topk(12).indices.tolist() for each in (x[at], shares))
    assert [int(row[0]) for row in rows] == list(dict.fromkeys([*largest, *worst]))
    most = int(shares.argmax())
    assert f", is of input {most}." in tab.get_by_text("largest share of it").inner_text()
    for index, value, code, share in rows:
        k = int(index)
        assert value == said(float(x[at][k])) and int(code.replace(",", "")) == int(inside.activation_codes[at][k])
        assert share.replace("\u00a0", " ") == percent(float(shares[k]))
    output = inside.output(at, 0)
    groups = zip(output.products, output.weight_scales, output.activation_scales, strict=True)
    cells = table(tab, "Output 0")
    assert [cells[g, 3] for g in range(len(output.products))] == [said(p * w * a) for p, w, a in groups]


def test_damage_of_each_layer(page: Open, full: LM):
    tab = page(f"{PROMPT}&panel=eight")
    tab.get_by_role("button", name="Measure").click()
    tab.get_by_text("layers together:").wait_for()
    found = full.damage(TEXT, "int8").to_dict()
    assert said(found["total"]) in tab.get_by_text("layers together:").inner_text()
    keep = tab.get_by_text("To keep in full precision:").inner_text()
    assert all(name in keep for name in found["keep"]["layers"]) and said(found["keep"]["measured"]) in keep
    by_name = {layer["name"]: layer for layer in found["layers"]}
    worst = sorted(found["layers"], key=lambda layer: -layer["alone"])[:8]
    cells = table(tab, "The largest")
    for row, layer in enumerate(worst):
        assert [cells[row, 0], cells[row, 1]] == [said(layer["alone"]), said(layer["share"])]
    cells = table(tab, "Alone, by block")
    kinds = list(dict.fromkeys(name.split(".", 2)[2] for name in by_name if name.startswith("blocks.")))
    assert cells == {place: said(by_name[f"blocks.{place[1]}.{kinds[place[0]]}"]["alone"]) for place in cells}


def test_on_a_phone_each_panel_fits(page: Open):
    for panel in ("eight", "change", "number"):
        tab = page(f"{PROMPT}&panel={panel}&edits={quote_plus(json.dumps([HEAD]))}", SMALL)
        tab.get_by_role("complementary").wait_for()
        tab.wait_for_timeout(300)
        assert tab.evaluate("document.documentElement.scrollWidth") == SMALL["width"]
        assert tab.locator("aside:not([hidden])").evaluate("panel => panel.scrollWidth - panel.clientWidth") <= 0


def test_a_link_brings_both_prompts_and_the_difference_of_two_logits(page: Open, plain: LM):
    edits = quote_plus(json.dumps([HEAD]))
    tab = page(f"{PROMPT}&panel=change&answer=+mat&against=+dog&edits={edits}")
    panel = tab.get_by_role("complementary", name="Change it")
    panel.get_by_role("heading", name="B: put into").wait_for()  # prompt A ran without a click
    (answer,), (against,) = (plain.tokenize(word).ids[0].tolist() for word in (" mat", " dog"))
    made = [plain.view(TEXT, edits=[Edit.from_data(each) for each in some])["logits"][0, -1] for some in ([], [HEAD])]
    before, after = (logits.double().log_softmax(-1) for logits in made)
    before, after = (said(float(logs[answer] - logs[against])) for logs in (before, after))
    line = f"logit of ␣mat minus that of ␣dog: {before} before, {after} after"
    assert panel.locator("p").filter(has_text="minus that of").inner_text() == line
