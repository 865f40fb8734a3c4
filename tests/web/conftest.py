"""The built page in Debian's Chromium, served by a real server with a tiny model.

It does not know what the page shows. A console error, a failed request or one to another host fails the test.
"""

import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from cutaway.lm import LM
from tests.apps.server.conftest import Serving, opened, serving, tiny

__all__ = ["tiny"]
PAGE = Path(__file__).parents[2] / "src" / "cutaway" / "apps" / "server" / "page"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = {
    "no built page: run make web": (PAGE / "index.html").is_file(),
    "no Playwright: pip install playwright": find_spec("playwright"),
    "no Chromium: apt-get install chromium": CHROMIUM,
}
SMALL, LARGE = {"width": 390, "height": 844}, {"width": 1440, "height": 900}
Open = Callable[..., "object"]


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """Chromium, started once."""
    for reason, there in MISSING.items():
        if not there:
            pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def running(browser: object, tiny: Path) -> Iterator[Serving]:
    """One server of the built page for a module's tests."""
    with serving(opened(tiny), folder=PAGE) as found:
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
