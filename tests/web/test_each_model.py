"""What a stage says of models that differ from the default one, of long texts and of edits: true of each, or not said.

It does not test the numbers of a plain run: test_first_stages.py, test_inner_stages.py and test_last_stages.py do.
"""

from tests.apps.server.conftest import tiny
from tests.web.test_first_stages import PROMPT, Open, page, plain, running

__all__ = ["page", "plain", "running", "tiny"]


def line(tab, stage: int) -> str:
    """What a stage says in one line."""
    return tab.locator(f"#stage-{stage} .line").inner_text()


def test_the_line_of_the_logits_is_of_the_chosen_token_or_of_none(page: Open):
    text = "+".join(["the cat sat on"] * 40)
    tab = page(f"prompt={text.replace(' ', '+')}&focus=t0&open=1")
    assert line(tab, 7) == "300 logits at each token"
    tab = page(f"{PROMPT}&focus=t0&open=1")
    assert "gets" in line(tab, 7)
