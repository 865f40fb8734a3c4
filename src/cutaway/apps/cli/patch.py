"""`cutaway patch`: values of one text patched into the pass over another, and the effect on the answer.

It prints the sweep; it does not know how one is run.
"""

from typing import Annotated

import typer

from cutaway.apps.cli.common import Options, read_texts, verb
from cutaway.apps.cli.options import Figure, NoSpecial
from cutaway.ground.errors import BadText

Pairs = Annotated[
    list[str],
    typer.Argument(
        metavar="CLEAN CORRUPT…", help="A text that has the answer, and one of as many tokens that has not; or pairs."
    ),
]
Answer = Annotated[
    list[str],
    typer.Option(metavar="TEXT", help="The token that answers the clean text, or one a pair.", show_default=False),
]
Against = Annotated[
    list[str] | None,
    typer.Option("--against", "--wrong", metavar="TEXT", help="The token that answers the corrupt one."),
]
By = Annotated[str, typer.Option(metavar="AXES", help="block,head, block,position, or head,position of one --block.")]
Site = Annotated[
    str | None,
    typer.Option(help="What is patched: attn.z or attn.pattern by head; resid_pre, attn_out, mlp_out … by position."),
]
Block = Annotated[int | None, typer.Option(help="The block whose heads and positions are patched.")]
Direction = Annotated[str, typer.Option(help="denoise: clean values into the corrupt text; noise: the other way.")]


@verb
def patch(
    options: Options,
    texts: Pairs,
    answer: Answer,
    against: Against = None,
    by: By = "block,head",
    site: Site = None,
    block: Block = None,
    direction: Direction = "denoise",
    figure: Figure = None,
    no_special_tokens: NoSpecial = False,
) -> None:
    """Which values carry the answer: activation patching. One value at a time; 1 is the full answer, 0 none of it."""
    read = read_texts(texts)
    if len(read) % 2:
        expected = "pairs of a clean and a corrupt text"
        raise BadText(f"{len(read)} texts", expected, "give each clean text its corrupt one")
    with options.opened() as lm:
        found = lm.patch(
            read[::2], read[1::2], answer, against, by=tuple(by.split(",")), site=site, block=block,
            direction=direction,             add_special_tokens=not no_special_tokens,
        )  # fmt: skip
    options.print(found, figure)
