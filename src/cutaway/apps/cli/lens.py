"""`cutaway lens`: what the model would say next if it stopped after each block.

It shows the lens; it does not know how a stream is read.
"""

from pathlib import Path
from typing import Annotated

import typer

from cutaway.apps.cli.columns import WIDTH, columns
from cutaway.apps.cli.options import Debug, Device, Dtype, Json, Model, NoSpecial, Offline, Quantize
from cutaway.apps.cli.running import busy, cut, note, open_model, print_json, read_texts

Text = Annotated[str, typer.Argument(help='The text; "-" is standard input.', show_default=False)]
Position = Annotated[int, typer.Option(help="The position to read, from 0, or from -1 back.")]
Top = Annotated[int, typer.Option(min=1, help="How many tokens of each block.")]
ProbesFile = Annotated[Path | None, typer.Option(metavar="FILE", help="A tuned lens: its params.pt or .safetensors.")]


def lens(
    text: Text,
    position: Position = -1,
    top: Top = 3,
    probes: ProbesFile = None,
    no_special_tokens: NoSpecial = False,
    model: Model = None,
    quantize: Quantize = "int8",
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What the model would say next if it stopped after each block: the logit lens, or a tuned one."""
    read = read_texts([text])
    with busy("starting") as report:
        lm = open_model(model, quantize=quantize, dtype=dtype, device=device, offline=offline, report=report)
        from cutaway.analysis.logit_lens import load_probes, logit_lens, stream_sites
        from cutaway.edit.positions import columns as columns_of

        tuned = None if probes is None else load_probes(probes, lm.config)
        sites = stream_sites(lm.config)
        values = lm.trace(cut(lm, read, no_special_tokens), sites)
        place = columns_of(values.tokens, position)[:, 0]
        probs = logit_lens(values, lm.decoder, place, tuned)[:, 0].float().softmax(-1)
    best = probs.topk(min(top, probs.shape[-1]))
    said = [
        [(token, lm.token_text(token), p) for token, p in zip(*row, strict=True)]
        for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    if as_json:
        rows = [{"site": site, "tokens": [dict(zip(("id", "text", "probability"), each, strict=True)) for each in row]}
                for site, row in zip(sites, said, strict=True)]  # fmt: skip
        print_json({"model": lm.name, "position": int(place), "rows": rows})
        return
    from cutaway.text.table import visible

    shown = min(len(said[0]), WIDTH)
    table = [["after", "says next", *[""] * (shown - 1)]]
    table += [[site, *(f"{visible(word.encode())[:14]} {p:.0%}" for _, word, p in row[:shown])]
              for site, row in zip(sites, said, strict=True)]  # fmt: skip
    while shown > 1 and max(map(len, columns([row[: 1 + shown] for row in table]).splitlines())) > WIDTH:
        shown -= 1
    print(columns([row[: 1 + shown] for row in table]))
    if shown < len(said[0]):
        note(f"{shown} of {len(said[0])} tokens fit in a line; --json has all.")
