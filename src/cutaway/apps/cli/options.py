"""The options that several verbs take, with their texts for --help.

It does not know how a verb uses them; it imports nothing heavy, since --help needs this file.
"""

from pathlib import Path
from typing import Annotated

import typer

TEXTS = typer.Argument(metavar="TEXT", help='A text, or several; "-" is standard input.', show_default=False)
Texts = Annotated[list[str], TEXTS]
Text = Annotated[str, typer.Argument(metavar="TEXT", help='The text; "-" is standard input.', show_default=False)]
Model = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A hub id, a folder or a .gguf file; without it, the default model."),
]
Quantize = Annotated[
    str | None,
    typer.Option(metavar="HOW", help="int8 (without it), llm-int8, llm-int8-pooled, or none, full precision"),
]
Dtype = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="float32, bfloat16, float16 or float64; float32 on a CPU without it."),
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1 …; the first GPU, if any, without it.")
]
Threads = Annotated[
    int | None, typer.Option(metavar="N", help="Compute with so many; without it, one a core that may be used.")
]
Answer = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="A token to follow; one for all texts, or one for each.")
]
WantedToken = Annotated[
    list[str] | None,
    typer.Option("--answer", "--token", metavar="TEXT", help="The token; the likeliest next one of each text without."),
]
Against = Annotated[
    list[str] | None, typer.Option("--against", "--versus", metavar="TEXT", help="Subtract this token's logit.")
]
Position = Annotated[int, typer.Option(help="The position to read, from 0, or from -1 backwards.")]
Figure = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Draw the result too, as .svg, .pdf or .png (wants matplotlib).")
]
NoSpecial = Annotated[bool, typer.Option("--no-special-tokens", help="Add no BOS or EOS to the text.")]
Block = Annotated[int, typer.Option(help="The block to show, from 0.")]
EditsFile = Annotated[
    Path | None, typer.Option(metavar="RECIPE", help="Edits of every pass, a JSON file; their effect is shown.")
]
Save = Annotated[Path | None, typer.Option(metavar="FILE", help="Write what is recorded as a .safetensors file.")]
Temperature = Annotated[float | None, typer.Option(help="Divides the logits; 1 leaves them unchanged.")]
DoSample = Annotated[
    bool | None,
    typer.Option(
        "--sample/--greedy",
        "--do-sample/--no-do-sample",
        " /--no-sample",
        help="Draw, or let the highest logit win; without it, as in the model's generation_config.json, else greedy.",
    ),
]
MaxNewTokens = Annotated[
    int | None, typer.Option(help="Tokens to add to each text; without a length 50, and 512 in a chat.")
]
MaxLength = Annotated[int | None, typer.Option(help="Tokens of prompt and new text, in all.")]
MinP = Annotated[float | None, typer.Option(help="Keep tokens at least so many times as probable as the first.")]
Penalty = Annotated[
    float | None, typer.Option(help="Above 1, tokens already in the text lose; works without drawing too.")
]
Seed = Annotated[int | None, typer.Option(help="Of the draws, so that a run can be repeated; a fresh one without it.")]
Stop = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="Stop once the new text holds it; may be repeated.")
]
TopK = Annotated[int | None, typer.Option(help="Keep the k highest; 0 keeps all, 50 without it.")]
TopP = Annotated[float | None, typer.Option(help="Keep the fewest tokens that sum to it; 1 keeps all.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use no network, whatever is missing.")]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of text.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]  # main.py reads it
# Verbs that read no weights take these too, so that one set of options fits every verb.
Unread = Annotated[str | None, typer.Option(metavar="…", help="No effect here.")]
UnreadNumber = Annotated[int | None, typer.Option(metavar="…", help="No effect here.")]
