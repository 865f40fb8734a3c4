"""`cutaway attribute`: which part of the model wrote the next token's logit.

It prints the parts; it does not know how one is computed.
"""

from typing import Annotated

import typer

from cutaway.apps.cli.common import Options, read_texts, token_of, verb
from cutaway.apps.cli.options import NoSpecial, Text

Token = Annotated[str | None, typer.Option(metavar="TEXT", help="The token; the likeliest next one without it.")]
Versus = Annotated[str | None, typer.Option(metavar="TEXT", help="Subtract this token's logit.")]
By = Annotated[str, typer.Option(help="block, head, neuron, or token: the position that attention read.")]
Top = Annotated[int, typer.Option(min=1, help="How many parts to show, the largest first.")]


@verb
def attribute(
    options: Options,
    text: Text,
    token: Token = None,
    versus: Versus = None,
    by: By = "block",
    top: Top = 20,
    no_special_tokens: NoSpecial = False,
) -> None:
    """Which part wrote the next token's logit: direct logit attribution. The parts sum to the logit."""
    read = read_texts([text])
    with options.opened() as lm:
        from cutaway.show import attribution

        wanted = None if token is None else token_of(lm, token, "--token")
        other = None if versus is None else token_of(lm, versus, "--versus")
        found = attribution.finding(lm, lm.tokens(read, not no_special_tokens), wanted, other, by, top)
    options.print(found)
