"""What a model writes without and with an edit, and what the edit does to the next token: as data and as text.

It does not know how the edit's direction was found.
"""

from typing import Any

from cutaway.edit.edit import Edit
from cutaway.lm import LM
from cutaway.show.effect import effect_table
from cutaway.show.finding import Listing


def finding(lm: LM, text: str, edit: Edit, title: str, **settings: Any) -> Listing:
    """title: the edit in words. settings: those of `generate`, the same for both texts."""
    without, steered = lm.generate(text, **settings), lm.generate(text, edits=edit, **settings)
    effect = lm.effect(text, edit)
    texts = {"without": without.text, "with": steered.text}
    data = {"model": lm.name, "edit": edit.as_data(), **texts, "effect": effect.as_data()}
    return Listing(data, f"without:\n{without}\n\n{title}:\n{steered}\n\n{effect_table(effect, lm.token_text)}")
