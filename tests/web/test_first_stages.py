"""Stages 1 to 3: every number read off the screen is the one that Python gives; by pointer, keyboard and table.

A tiny model behind a real server. A console error, a failed request or one to another host fails the test.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote_plus

import pytest

from cutaway.apps.server.page import FOLDER
from cutaway.ground.sites import all_sites
from cutaway.lm import LM
from cutaway.show.colours import number
from tests.apps.server.conftest import Serving, opened, serving, tiny

__all__ = ["tiny"]
SMALL, LARGE = {"width": 390, "height": 844}, {"width": 1440, "height": 900}
Open = Callable[..., "object"]
TEXT, SECOND = "the cat sat on the mat", "naïve 👍"
PROMPT = f"prompt={quote_plus(TEXT)}"


@pytest.fixture(scope="module")
def running(browser: object, tiny: Path) -> Iterator[Serving]:
    """One server of the built page for a module's tests."""
    with serving(opened(tiny), folder=FOLDER) as found:
        yield found


@pytest.fixture(scope="module")
def plain(tiny: Path) -> LM:
    """The same model, served by none: what the page's numbers are compared with."""
    return opened(tiny)


@pytest.fixture
def page(browser, running: Serving) -> Iterator[Open]:
    """page(fragment, size): the page at that address, when its river is there."""
    contexts, wrong = [], []

    def open_page(fragment: str = "", size: dict[str, int] = LARGE):
        context = browser.new_context(viewport=size)
        contexts.append(context)
        tab = context.new_page()
        address = f"http://127.0.0.1:{running.guard.port}/"
        tab.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("requestfailed", lambda request: None if request.failure == "net::ERR_ABORTED"  # by a reload
               else wrong.append(request.url))  # fmt: skip
        tab.on("request", lambda request: None if request.url.startswith((address, "data:", "blob:"))
               else wrong.append(request.url))  # fmt: skip
        tab.goto(f"{address}#{fragment}")
        tab.locator(".river").wait_for()
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def watch(tab, expression: str) -> None:
    """From now on window.seen has its value at each frame, on a browser that is six times slower."""
    tab.context.new_cdp_session(tab).send("Emulation.setCPUThrottlingRate", {"rate": 6})
    tab.evaluate(
        f"() => {{ window.seen = []; (function each() {{ seen.push({expression}); requestAnimationFrame(each) }})() }}"
    )


def said(value: float) -> str:
    return {"-0": "0", "-inf": "−∞"}.get(number(value), number(value))


def view(tab, title: str):
    return tab.locator(".view").filter(has=tab.get_by_role("heading", name=title, exact=True))


def table(tab, title: str) -> dict[tuple[int, int], str]:
    """What a view says as table, by row and column from 0: the cells that are in sight."""
    found = view(tab, title)
    found.get_by_role("button", name="As table").click()
    cells = found.locator("tbody").evaluate(
        "body => [...body.querySelectorAll('td[aria-colindex]')].map(cell => "
        "[cell.parentElement.ariaRowIndex - 2, cell.ariaColIndex - 2, cell.innerText])"
    )
    found.get_by_role("button", name="As table").click()
    return {(row, column): text for row, column, text in cells}


def expected(values, cells: dict[tuple[int, int], str]) -> dict[tuple[int, int], str]:
    """The same cells of a tensor [rows, columns]."""
    return {(row, column): said(float(values[row, column])) for row, column in cells}


def test_stage_one_has_bytes_pieces_ids_and_offsets(page: Open, plain: LM):
    tab = page(f"{PROMPT}&open=1")
    pieces = plain.tokenize(TEXT).pieces[0]
    cards = tab.locator(".stage ol").first.locator("button")
    cards.first.wait_for()
    for card, piece in zip(cards.all(), pieces, strict=True):
        span = "not in the text" if piece.span is None else f"{piece.span[0]}–{piece.span[1]}"
        text = re.sub(r"(bytes|piece|id|characters) ", "", " ".join(card.inner_text().split()))
        assert text == " ".join([piece.bytes.hex(" ").upper(), piece.visible, str(piece.id), span])


def test_stage_one_pads_a_second_text(page: Open, plain: LM):
    tab = page(f"{PROMPT}&open=1")
    tab.get_by_label("Second text").fill(SECOND)
    tab.get_by_text("padding on the left").click()
    tokens = plain.tokenize([TEXT, SECOND], padding_side="left")
    tab.locator("td.padding").first.wait_for()
    for text in (0, 1):
        rows = tab.locator(".stage table tbody").nth(text).locator("tr").all()
        read = [[cell.inner_text() for cell in row.locator("td").all()] for row in rows]
        numbers = [each[text].tolist() for each in (tokens.ids, tokens.mask, tokens.positions)]
        assert read == [[piece.visible for piece in tokens.pieces[text]], *([str(n) for n in row] for row in numbers)]


def test_stage_one_replays_the_merges(page: Open, plain: LM):
    tab = page(f"{PROMPT}&open=1&focus=t0")
    made, _ = plain.tokenizer.merges(plain.tokenize(TEXT).pieces[0])
    own = [merge for merge in made if merge.piece == 0]
    steps = view(tab, f"How “{plain.tokenize(TEXT).pieces[0][0].visible}” was merged").locator("li")
    steps.first.wait_for()
    assert [step.locator(".rank").inner_text() for step in steps.all()[1:]] == [
        f"merge {merge.rank:,}" for merge in own
    ]


def test_stage_two_shows_the_vectors(page: Open, plain: LM):
    tab = page(f"{PROMPT}&open=2&focus=t2.l1.h1")
    trace = plain.trace(TEXT)
    for title, site, head in (
        ("Token vectors", "embed.token", None),
        ("q before rotation", "blocks.1.attn.q", 1),
        ("q after rotation", "blocks.1.attn.rot_q", 1),
    ):
        view(tab, title).locator("canvas").first.wait_for()
        values = trace[site][0] if head is None else trace[site][0][:, head]
        cells = table(tab, title)
        assert len(cells) >= 6 * min(10, values.shape[1])
        assert cells == expected(values, cells)


def test_a_cell_is_read_without_a_mouse(page: Open, plain: LM):
    tab = page(f"{PROMPT}&open=2")
    values = plain.trace(TEXT, "embed.token")["embed.token"][0]
    cell = view(tab, "Token vectors").get_by_role("gridcell")
    cell.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowLeft"):
        tab.keyboard.press(key)
    piece = plain.tokenize(TEXT).pieces[0][1].visible
    read = f"token {piece}, dimension 2, {said(float(values[1, 2]))}"
    assert view(tab, "Token vectors").locator("[aria-live]").inner_text() == read
    assert cell.text_content() == read
    tab.keyboard.press("Enter")
    tab.wait_for_timeout(400)
    assert "site=embed.token" in tab.url
    assert "index=1.2" in tab.url


def test_stage_three_measures_what_each_block_adds(page: Open, plain: LM):
    tab = page(f"{PROMPT}&open=3&focus=t3.l2")
    trace = plain.trace(TEXT)
    for layer in range(3):
        sizes = [trace[f"blocks.{layer}.{site}"][0, 3].norm() for site in ("attn_out", "mlp_out", "resid_post")]
        attention, mlp, stream = (said(float(size)) for size in sizes)
        name = f"Block {layer}: attention adds {attention}, the MLP {mlp}; the stream leaves with {stream}"
        assert tab.get_by_role("radio", name=name, exact=True).count() == 1
    for title, site in (("Attention, for every token", "attn_out"), ("MLP, for every token", "mlp_out")):
        cells = table(tab, title)
        rows = [trace[f"blocks.{layer}.{site}"][0].norm(dim=-1).tolist() for layer in range(3)]
        assert cells == {(row, column): said(rows[row][column]) for row, column in cells}


def test_stage_three_has_every_value_of_a_block(page: Open, plain: LM):
    tab = page(f"{PROMPT}&open=3&focus=t3.l2.h3")
    trace = plain.trace(TEXT)
    for name, site in all_sites(plain.config).items():
        if not name.startswith("blocks.2."):
            continue
        choice = tab.locator(f"input[type=radio][value='{name.removeprefix('blocks.2.')}']")
        tab.locator("label").filter(has=choice).click()
        view(tab, name).locator("canvas").first.wait_for()
        value = trace[name][0]
        axes = site.shape.split()[1:]
        if axes[0] == "H":
            value = value[3]  # scores and pattern: one head
        elif {"H", "G"} & set(axes):
            value = value[:, 3 if "H" in axes else 1]  # 4 heads share 2 keys
        cells = table(tab, name)
        assert len(cells) >= 6, name
        assert cells == expected(value, cells), name


def test_a_block_is_picked_by_keyboard_and_a_reload_restores_it(page: Open):
    tab = page(f"{PROMPT}&open=3")
    tab.get_by_role("radiogroup", name="Blocks").get_by_role("radio").first.focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    tab.get_by_role("heading", name="Block 2, value by value").wait_for()
    tab.wait_for_timeout(400)
    tab.reload()
    tab.get_by_role("heading", name="Block 2, value by value").wait_for()
    assert tab.locator("#prompt").input_value() == TEXT


def test_what_cannot_run_is_a_sentence_and_a_narrow_page_never_scrolls_sideways(page: Open):
    tab = page(f"{PROMPT}&open=3&focus=l1", SMALL)
    for stage in (1, 2, 3):
        if f"open={stage}" not in tab.url:
            tab.locator(f"#stage-{stage}").click()
        tab.wait_for_timeout(300)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.locator("#prompt").fill("x" * 30_000)
    tab.locator("#prompt").press("Enter")
    assert "expected" in tab.get_by_role("alert").inner_text()
    tab.locator("#prompt").fill(TEXT)
    tab.locator("#prompt").press("Enter")
    tab.get_by_role("alert").wait_for(state="detached")


def test_an_idle_page_asks_nothing(page: Open):
    tab = page(f"{PROMPT}&open=1&second=a")
    sent = []
    tab.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(frame)))
    tab.reload()
    tab.locator("td.padding").first.wait_for()
    tab.wait_for_timeout(800)
    before = len(sent)
    tab.wait_for_timeout(800)
    assert (before > 2, len(sent)) == (True, before)
