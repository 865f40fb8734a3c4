"""`cutaway patch`: values of one text patched into the pass over another, and the effect on the answer.

It prints the sweep; it does not know how one is run.
"""

from typing import Annotated

import typer

from cutaway.apps.cli.common import Options, read_texts, token_of, verb
from cutaway.apps.cli.options import NoSpecial
from cutaway.ground.errors import BadText

Clean = Annotated[str, typer.Argument(metavar="CLEAN", help="The text that has the answer.", show_default=False)]
Corrupt = Annotated[
    str, typer.Argument(metavar="CORRUPT", help="One of as many tokens that has not.", show_default=False)
]
Answer = Annotated[str, typer.Option(metavar="TEXT", help="The token that answers the clean text.", show_default=False)]
Wrong = Annotated[str | None, typer.Option(metavar="TEXT", help="The token that answers the corrupt one.")]
What = Annotated[str, typer.Option(help="heads, resid, attn, mlp, patterns, or head-positions (with --block).")]
Block = Annotated[int | None, typer.Option(help="The block of head-positions.")]
Direction = Annotated[str, typer.Option(help="denoise: clean values into the corrupt text; noise: the other way.")]


@verb
def patch(
    options: Options,
    clean: Clean,
    corrupt: Corrupt,
    answer: Answer,
    wrong: Wrong = None,
    what: What = "heads",
    block: Block = None,
    direction: Direction = "denoise",
    no_special_tokens: NoSpecial = False,
) -> None:
    """Which values carry the answer: activation patching, one value at a time. 1 is the full answer, 0 none of it."""
    pair = read_texts([clean, corrupt])
    with options.opened() as lm:
        from cutaway.analysis.patching import logit_difference, logit_of, sweep
        from cutaway.show.patching import finding

        right = token_of(lm, answer, "--answer")
        metric = logit_of(right) if wrong is None else logit_difference(right, token_of(lm, wrong, "--wrong"))
        measure = "logit of the answer" if wrong is None else "answer's logit minus the wrong one's"
        tokens = [lm.tokens([text], not no_special_tokens) for text in pair]
        counts = [each.ids.shape[1] for each in tokens]
        if counts[0] != counts[1]:
            given = f"texts of {counts[0]} and {counts[1]} tokens"
            raise BadText(given, "two texts of the same length", "change a word so that both are as long")
        done = sweep(lm.decoder, *tokens, metric, what, direction=direction, block=block)  # pyright: ignore
        pieces = [lm.token_text(i) for i in tokens[0].ids[0].tolist()]
    options.print(finding(lm.name, what, done, pieces, measure))
