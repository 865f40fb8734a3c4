"""Chromium, driven by Playwright: Debian's own, started once. It does not know the page."""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from cutaway.apps.server.page import FOLDER

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = {
    "no built page: run make web": (FOLDER / "index.html").is_file(),
    "no Playwright: pip install playwright": find_spec("playwright"),
    "no Chromium: apt-get install chromium": CHROMIUM,
}


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """Chromium, started once."""
    for reason, there in MISSING.items():
        if not there:
            assert "CI" not in os.environ, reason  # which installs them: .ci/run
            pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()
