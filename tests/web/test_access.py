"""axe finds no serious or critical violation: every stage and panel, wide and narrow, light and dark.

It does not know what keys do: a labelled canvas passes axe, so each panel's own tests reach its cells by keyboard.
"""

import json
from urllib.parse import quote_plus

import pytest

from tests.apps.server.conftest import tiny
from tests.web.test_first_stages import LARGE, SMALL, Open, page, plain, running

__all__ = ["page", "plain", "running", "tiny"]
EDITS = [{"site": "blocks.1.attn.z", "op": "zero", "head": 2}]
OTHER = quote_plus("the dog sat on the mat")
PROMPT = f"prompt={quote_plus('the cat sat on the mat')}&second={OTHER}&otherPrompt={OTHER}"
CHANGED = f"{PROMPT}&edits={quote_plus(json.dumps(EDITS))}&focus=t4.l1.h2"
# Of each panel: what the address adds to open it, and the buttons that fill it.
PANELS = {
    "Lesson": ("&panel=lesson&lesson=3", []),
    "8 bits": ("&panel=eight", ["Compare", "Measure"]),
    "Change it": ("&panel=change", ["Run A", "Write with and without the changes"]),
    "Any number": ("&panel=number&site=blocks.1.attn.z&index=4.2.1", []),
}


def serious(tab, context: str) -> list[str]:
    """The rule, the element and the help of each serious or critical violation in a part of the page."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    found = axe.Axe().run(tab, context=context).response["violations"]
    worst = [each for each in found if each["impact"] in ("serious", "critical")]
    return [f"{each['id']}: {node['html'][:120]} ({each['help']})" for each in worst for node in each["nodes"]]


def looks(tab):
    """Light, then dark: painted, and with no transition between the two."""
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        tab.wait_for_timeout(250)
        yield scheme


@pytest.mark.parametrize("size", [LARGE, SMALL], ids=["wide", "narrow"])
def test_every_stage_is_free_of_serious_violations(page: Open, size: dict[str, int]):
    tab = page(f"{CHANGED}&open=1.2.3.4.5.6.7.8", size)
    tab.get_by_role("heading", name="by block").wait_for()
    tab.wait_for_load_state("networkidle")
    assert tab.locator(".stage .body").count() == 8
    assert {scheme: serious(tab, "html") for scheme in looks(tab)} == {"light": [], "dark": []}


@pytest.mark.parametrize("size", [LARGE, SMALL], ids=["wide", "narrow"])
def test_every_panel_is_free_of_serious_violations(page: Open, size: dict[str, int]):
    tab = page(f"{CHANGED}&open=4", size)
    found = {}
    for name, (opens, presses) in PANELS.items():
        tab.evaluate("fragment => { location.hash = fragment; }", f"{CHANGED}&open=4{opens}")
        panel = tab.get_by_role("complementary", name=name)
        panel.get_by_role("heading", level=2).wait_for()
        for press in presses:
            panel.get_by_role("button", name=press).click()
            tab.locator("main[aria-busy=false]").wait_for()
        found |= {(name, scheme): serious(tab, "aside:not([hidden])") for scheme in looks(tab)}
    assert found == {(name, scheme): [] for name in PANELS for scheme in ("light", "dark")}
