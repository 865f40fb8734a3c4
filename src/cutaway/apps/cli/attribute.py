"""`cutaway attribute`: which part of the model wrote the next token's logit.

It shows the parts; it does not know how one is computed.
"""

from typing import Annotated

import typer

from cutaway.apps.cli.options import Debug, Device, Dtype, Json, Model, NoSpecial, Offline, Quantize
from cutaway.apps.cli.running import busy, cut, open_model, print_json, read_texts, token_of

Text = Annotated[str, typer.Argument(help='The text; "-" is standard input.', show_default=False)]
Token = Annotated[str | None, typer.Option(metavar="TEXT", help="The token; the likeliest next one without it.")]
Versus = Annotated[str | None, typer.Option(metavar="TEXT", help="Take away this token's logit.")]
By = Annotated[str, typer.Option(help="block, head, neuron, or token: the position that attention read.")]
Top = Annotated[int, typer.Option(min=1, help="How many parts to show, the largest first.")]
BAR = 24  # columns of the largest part's bar


def attribute(
    text: Text,
    token: Token = None,
    versus: Versus = None,
    by: By = "block",
    top: Top = 20,
    no_special_tokens: NoSpecial = False,
    model: Model = None,
    quantize: Quantize = "int8",
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Which part wrote the next token's logit: direct logit attribution. The parts sum to the logit."""
    read = read_texts([text])
    with busy("starting") as report:
        lm = open_model(model, quantize=quantize, dtype=dtype, device=device, offline=offline, report=report)
        from cutaway.analysis.attribution import attribute as ask
        from cutaway.analysis.attribution import needed_sites

        values = lm.trace(cut(lm, read, no_special_tokens), needed_sites(lm.config, by))
        wanted = int(values["logits"][0, -1].argmax()) if token is None else token_of(lm, token, "--token")
        other = None if versus is None else token_of(lm, versus, "--versus")
        found = ask(values, lm.decoder, wanted, other, by)
    parts = list(zip(found.what, found.values.tolist(), strict=True))
    if as_json:
        asked = {"token": wanted, "text": lm.token_text(wanted), "versus": other, "logit": found.logit}
        print_json({"model": lm.name, **asked, "by": by, "parts": [{"part": w, "gives": v} for w, v in parts]})
        return
    largest = sorted(parts, key=lambda part: -abs(part[1]))
    minus = "" if other is None else f" - logit of {lm.token_text(other)!r}"
    print(f"logit of {lm.token_text(wanted)!r}{minus} = {found.logit:.4g}, the sum of {len(parts):,} parts")
    size = max(abs(largest[0][1]), 1e-30)
    for what, gives in largest[:top]:
        bar = ("█" if gives > 0 else "░") * round(BAR * abs(gives) / size)
        print(f"{what:<36}{gives:>+10.4f}  {bar}".rstrip())
    rest = sum(gives for _, gives in largest[top:])
    if len(largest) > top:
        print(f"{len(largest) - top:,} more, together".ljust(36) + f"{rest:>+10.4f}")
