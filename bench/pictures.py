"""Photographs the page for docs/page: each stage and panel, wide and narrow, light and dark, of the default model.

python bench/pictures.py, with the page built and Debian's Chromium. It draws nothing itself: what is in a picture is
what `cutaway serve` showed.
"""

import base64
import shutil
import sys
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Page, sync_playwright
from serving import served

OUT = Path(__file__).parents[1] / "docs" / "page"
MOST = 2_000_000  # bytes of all pictures
QUALITY = 25  # of 100: text stays sharp, and all fit
SCREENS = {"wide": {"width": 1440, "height": 900}, "narrow": {"width": 390, "height": 844}}
PROMPT = "When Mary and John went to the store, John gave a drink to"
DRAWN = '{"do_sample": true, "temperature": 0.8, "top_p": 0.9}'
VIEWS = {
    "1-text": {"open": "1", "second": "The sun rises"},
    "2-embedding": {"open": "2"},
    "3-blocks": {"open": "3", "focus": "l21"},
    "4-attention": {"open": "4", "focus": "t13.l17.h1"},
    "5-mlp": {"open": "5", "focus": "t13.l20"},
    "6-residual": {"open": "6"},
    "7-logits": {"open": "7", "settings": DRAWN, "seed": "3"},
    "8-writing": {"open": "8", "settings": DRAWN, "seed": "3"},
    "lesson": {"open": "4", "panel": "lesson", "lesson": "5"},
    "8-bits": {"panel": "eight", "open": "4"},
    "change-it": {"panel": "change", "open": "6", "edits": '[{"site": "blocks.23.attn.z", "op": "zero", "head": 3}]'},
    "any-number": {"open": "4", "site": "blocks.17.attn.z", "index": "13.1.5", "focus": "t13.l17.h1"},
}

PRESSED = {"8-writing": "Generate", "8-bits": "Compare"}


def photograph(tab: Page, path: Path) -> int:
    """What is in sight, as WebP; its bytes."""
    session = tab.context.new_cdp_session(tab)
    data = session.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})["data"]
    path.write_bytes(base64.b64decode(data))
    return path.stat().st_size


def settled(tab: Page) -> None:
    """Until nothing is awaited any more, and it is painted."""
    tab.locator(".river").wait_for(timeout=120_000)
    tab.wait_for_timeout(400)
    tab.locator('main[aria-busy="false"]').wait_for(timeout=300_000)
    tab.wait_for_timeout(600)


def main() -> None:
    OUT.mkdir(exist_ok=True)
    total, chromium = 0, shutil.which("chromium")
    with served() as (address, _), sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for screen, size in SCREENS.items():
            for scheme in ("light", "dark"):
                context = browser.new_context(viewport=size, color_scheme=scheme)
                for name, state in VIEWS.items():
                    tab = context.new_page()
                    tab.goto(f"{address}#{urlencode({'prompt': PROMPT} | state)}")
                    settled(tab)
                    if name in PRESSED:
                        tab.get_by_role("button", name=PRESSED[name], exact=True).click()
                        settled(tab)
                    if screen == "narrow":  # past the header and the closed stages
                        tab.evaluate("document.querySelector('.head.open')?.scrollIntoView()")
                        tab.wait_for_timeout(300)
                    total += photograph(tab, OUT / f"{name}-{screen}-{scheme}.webp")
                    tab.close()
                context.close()
        browser.close()
    sys.stdout.write(f"{len(VIEWS) * 4} pictures, {total / 1e6:.2f} MB\n")
    if total > MOST:
        sys.exit(f"found {total} bytes of pictures; expected at most {MOST}; lower their quality")


if __name__ == "__main__":
    main()
