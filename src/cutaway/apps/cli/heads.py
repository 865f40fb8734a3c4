"""`cutaway heads`: what each attention head looks at, by scores of its pattern.

It shows scores; it does not know how one is computed.
"""

from typing import Annotated

import typer

from cutaway.apps.cli.columns import columns
from cutaway.apps.cli.options import Debug, Device, Dtype, Json, Model, NoSpecial, Offline, Quantize
from cutaway.apps.cli.running import busy, cut, open_model, print_json, read_texts

UNREPEATED = "no induction: that wants a text whose second half is its first (or no text)"
Text = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TEXT…]", help="Without one: random tokens said twice.", show_default=False),
]
Top = Annotated[int, typer.Option(min=1, help="How many heads of each score.")]
Seed = Annotated[int, typer.Option(help="Of the random tokens.")]
Length = Annotated[int, typer.Option(help="Random tokens that are said twice, of each of four texts.")]


def heads(
    texts: Text = None,
    top: Top = 5,
    length: Length = 50,
    seed: Seed = 0,
    no_special_tokens: NoSpecial = False,
    model: Model = None,
    quantize: Quantize = "int8",
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What each head looks at: the place before, the same token, the token after it (induction), the first, itself."""
    read = read_texts(texts) if texts else None
    with busy("starting") as report:
        lm = open_model(model, quantize=quantize, dtype=dtype, device=device, offline=offline, report=report)
        from cutaway.analysis.heads import pattern_sites, repeated_tokens, score_heads

        tokens = repeated_tokens(lm.config, length, seed=seed) if read is None else cut(lm, read, no_special_tokens)
        scores = score_heads(lm.trace(tokens, pattern_sites(lm.config)))
    if as_json:
        print_json({"model": lm.name, "scores": {name: of.tolist() for name, of in scores.by_name.items()}})
        return
    of_several = "the text" if len(tokens.ids) == 1 else f"{len(tokens.ids)} texts"
    on = f"{length} random tokens said twice" if read is None else of_several
    print(f"block.head and score, the {top} highest of each, on {on}")
    rows = [(name, *(f"{layer}.{head} {score:.3f}" for layer, head, score in scores.top(name, top)))
            for name in scores.by_name]  # fmt: skip
    print(columns(rows))
    print("entropy: of where it looks, in nats")
    if "induction" not in scores.by_name:
        print(UNREPEATED)
