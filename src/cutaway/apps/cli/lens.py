"""`cutaway lens`: what the model would say next if it stopped after each block.

It prints the lens; it does not know how a stream is read.
"""

from pathlib import Path
from typing import Annotated

import typer

from cutaway.apps.cli.common import Options, read_texts, verb
from cutaway.apps.cli.options import NoSpecial, Text

Position = Annotated[int, typer.Option(help="The position to read, from 0, or from -1 backwards.")]
Top = Annotated[int, typer.Option(min=1, help="How many tokens of each block.")]
ProbesFile = Annotated[Path | None, typer.Option(metavar="FILE", help="A tuned lens: its params.pt or .safetensors.")]


@verb
def lens(
    options: Options,
    text: Text,
    position: Position = -1,
    top: Top = 3,
    probes: ProbesFile = None,
    no_special_tokens: NoSpecial = False,
) -> None:
    """What the model would say next if it stopped after each block: the logit lens, or a tuned one."""
    read = read_texts([text])
    with options.opened() as lm:
        from cutaway.analysis.logit_lens import load_probes
        from cutaway.show.lens import finding

        tuned = None if probes is None else load_probes(probes, lm.config)
        found = finding(lm, lm.tokens(read, not no_special_tokens), position, top, tuned)
    options.print(found)
