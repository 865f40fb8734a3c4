"""`cutaway lens`: what the model would say next if it stopped after each block.

It prints the lens; it does not know how a stream is read.
"""

from pathlib import Path
from typing import Annotated

import typer

from cutaway.apps.cli.common import Options, read_texts, verb
from cutaway.apps.cli.options import Against, Answer, Figure, NoSpecial, Position, Texts

Top = Annotated[int, typer.Option(min=1, help="How many tokens of each block.")]
ProbesFile = Annotated[Path | None, typer.Option(metavar="FILE", help="A tuned lens: its params.pt or .safetensors.")]


@verb
def lens(
    options: Options,
    texts: Texts,
    position: Position = -1,
    top: Top = 3,
    answer: Answer = None,
    against: Against = None,
    probes: ProbesFile = None,
    figure: Figure = None,
    no_special_tokens: NoSpecial = False,
) -> None:
    """The next token after each block: the logit lens. What the model would say if it stopped there; or a tuned one."""
    read = read_texts(texts)
    with options.opened() as lm:
        found = lm.lens(
            read, position=position, top=top, answer=answer, against=against, probes=probes,
            add_special_tokens=not no_special_tokens,
        )  # fmt: skip
    options.print(found, figure)
