"""`cutaway check`: the certificate of what every site of a model means, on its own checkpoint.

It prints the lines; it does not know how one is verified.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import typer

from cutaway.apps.cli.common import Options, read_texts, verb
from cutaway.ground.errors import BadArgument

Texts = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TEXT TEXT…]", help="At least two, of unequal lengths; ours without.", show_default=False),
]
Against = Annotated[
    str | None, typer.Option(metavar="WHOM", help="transformers: compare with its own pass, in full precision.")
]
Precision = Annotated[
    str | None, typer.Option(metavar="HOW", help="As elsewhere; int8 without it, and none with --against.")
]


@dataclass(frozen=True)
class Checked(Options):
    """The default of --quantize depends on --against."""

    quantize: Precision = None


@verb
def check(options: Checked, texts: Texts = None, against: Against = None) -> None:
    """Verify what this model's sites mean. Formulas, sums, padding, cache, edits, weights. Exit code 1 if one fails."""
    if against not in (None, "transformers"):
        raise BadArgument(f"--against {against}", "transformers", "pass that, or leave it out")
    read = read_texts(texts) if texts else None
    mode = options.quantize or ("auto" if against is None else "none")
    with replace(options, quantize=mode).opened() as lm:
        certificate = lm.check(read, against=against)
    options.print(certificate)
    if not certificate.passed:
        raise typer.Exit(1)
