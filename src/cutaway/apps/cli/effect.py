"""`cutaway effect`: what edits do to the next token.

It prints the tokens before and after; it does not know how an edit is done.
"""

from pathlib import Path
from typing import Annotated

import typer

from cutaway.apps.cli.common import Options, read_texts, verb
from cutaway.apps.cli.options import NoSpecial, Texts

Recipe = Annotated[Path, typer.Option(metavar="RECIPE", help="The edits, a JSON file.", show_default=False)]


@verb
def effect(options: Options, texts: Texts, edits: Recipe, no_special_tokens: NoSpecial = False) -> None:
    """What a recipe of edits does to the next token. The likeliest without and with them, and KL."""
    read = read_texts(texts)
    with options.opened() as lm:
        found = lm.effect(read, edits, add_special_tokens=not no_special_tokens)
    options.print(found)
