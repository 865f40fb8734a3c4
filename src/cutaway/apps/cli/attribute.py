"""`cutaway attribute`: which part of the model wrote the next token's logit.

It prints the parts; it does not know how one is computed.
"""

from typing import Annotated

import typer

from cutaway.apps.cli.common import Options, read_texts, verb
from cutaway.apps.cli.options import Against, Figure, NoSpecial, Position, Texts, WantedToken

By = Annotated[str, typer.Option(help="block, head, neuron, or token: the position that attention read.")]
Top = Annotated[int, typer.Option(min=1, help="How many parts to show, the largest first.")]


@verb
def attribute(
    options: Options,
    texts: Texts,
    answer: WantedToken = None,
    against: Against = None,
    by: By = "block",
    position: Position = -1,
    top: Top = 20,
    figure: Figure = None,
    no_special_tokens: NoSpecial = False,
) -> None:
    """Which part wrote a logit: direct logit attribution. The parts sum to the next token's logit."""
    read = read_texts(texts)
    with options.opened() as lm:
        found = lm.attribute(
            read, answer, against, by=by, position=position, top=top, add_special_tokens=not no_special_tokens
        )
    options.print(found, figure)
