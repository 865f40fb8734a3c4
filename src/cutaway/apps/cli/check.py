"""`cutaway check`: the certificate of what every site of a model means, at one's own checkpoint.

It shows the lines; it does not know how one is proved.
"""

from typing import Annotated

import typer

from cutaway.apps.cli.options import Debug, Device, Dtype, Json, Model, Offline
from cutaway.apps.cli.running import busy, open_model, print_json, read_texts
from cutaway.ground.errors import BadArgument

Texts = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TEXT TEXT…]", help="At least two, of unequal lengths; ours without.", show_default=False),
]
Against = Annotated[
    str | None, typer.Option(metavar="WHOM", help="transformers: compare with its own pass, in full precision.")
]
Precision = Annotated[
    str | None,
    typer.Option("--quantize", metavar="HOW", help="As elsewhere; int8 without it, and none with --against."),
]


def check(
    texts: Texts = None,
    against: Against = None,
    model: Model = None,
    quantize: Precision = None,
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Prove what this model's sites mean: formulas, sums, padding, cache, edits, weights. Exit code 1 if one fails."""
    if against not in (None, "transformers"):
        raise BadArgument(f"--against {against}", "transformers", "pass that, or leave it out")
    read = read_texts(texts) if texts else None
    mode = quantize or ("int8" if against is None else "none")
    with busy("starting") as report:
        lm = open_model(model, quantize=mode, dtype=dtype, device=device, offline=offline, report=report)
        certificate = lm.check(read, against=against)
    if as_json:
        print_json(certificate.as_data())
    else:
        print(certificate)
    if not certificate.passed:
        raise typer.Exit(1)
