"""The options that every verb takes, with the words that --help says of them.

It does not know what a verb makes of them; the heavy imports are not here, since --help needs this file.
"""

from typing import Annotated

import typer

Texts = Annotated[
    list[str],
    typer.Argument(metavar="TEXT", help='A text, or several; "-" is standard input.', show_default=False),
]
Model = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A hub id, a folder or a .gguf file; without it, the default model."),
]
Quantize = Annotated[str, typer.Option(metavar="HOW", help="int8, int8-pooled, int8-weight, or none: full precision.")]
Dtype = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="float32, bfloat16, float16 or float64; float32 on a CPU without it."),
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1 …; the first GPU, if any, without it.")
]
NoSpecial = Annotated[
    bool, typer.Option("--no-special-tokens", help="The text as it stands: no BOS or EOS is added to it.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Use no network, whatever is missing.")]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of text.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]  # main.py looks for it
# Verbs that read no weights take these too, so that one set of options fits every verb.
Unread = Annotated[str | None, typer.Option(metavar="…", help="No effect here.")]
