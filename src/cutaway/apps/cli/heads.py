"""`cutaway heads`: what each attention head attends to, by scores of its pattern.

It prints scores; it does not know how one is computed.
"""

from typing import Annotated

import typer

from cutaway.apps.cli.common import Options, read_texts, verb
from cutaway.apps.cli.options import Figure, NoSpecial

Texts = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TEXT…]", help="Without one: random tokens, repeated once.", show_default=False),
]
Top = Annotated[int, typer.Option(min=1, help="How many heads of each score.")]
Seed = Annotated[int, typer.Option(help="Of the random tokens.")]
Length = Annotated[int, typer.Option(help="Random tokens of each of four texts, repeated once.")]


@verb
def heads(
    options: Options,
    texts: Texts = None,
    top: Top = 5,
    length: Length = 50,
    seed: Seed = 0,
    figure: Figure = None,
    no_special_tokens: NoSpecial = False,
) -> None:
    """What each head attends to. The previous token, the same token, the one after (induction), the first, itself."""
    read = read_texts(texts) if texts else None
    with options.opened() as lm:
        found = lm.heads(read, top=top, length=length, seed=seed, add_special_tokens=not no_special_tokens)
    options.print(found, figure)
