"""`cutaway ablate`: what the next token's logit loses without each head.

It prints the changes; it does not know how a head is ablated.
"""

from typing import Annotated

import typer

from cutaway.apps.cli.common import Options, read_texts, verb
from cutaway.apps.cli.options import Against, NoSpecial, Texts, WantedToken

Reference = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="A head's z becomes its mean over this text; zero without. May be repeated."),
]
Top = Annotated[int, typer.Option(min=1, help="How many heads, the largest changes first.")]


@verb
def ablate(
    options: Options,
    texts: Texts,
    answer: WantedToken = None,
    against: Against = None,
    reference: Reference = None,
    top: Top = 20,
    no_special_tokens: NoSpecial = False,
) -> None:
    """What a logit loses without each head. Zero or mean ablation."""
    read, others = read_texts(texts), read_texts(reference) if reference else None
    with options.opened() as lm:
        found = lm.ablate(read, answer, against, reference=others, top=top, add_special_tokens=not no_special_tokens)
    options.print(found)
