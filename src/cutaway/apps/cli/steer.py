"""`cutaway steer`: a direction from a pair of texts, added while the model writes.

It shows both texts; it does not know how a direction is found.
"""

from pathlib import Path
from typing import Annotated

import typer

from cutaway.apps.cli.options import Debug, Device, Dtype, Json, Model, Offline, Quantize
from cutaway.apps.cli.running import busy, note, open_model, print_json, read_texts

Text = Annotated[str, typer.Argument(help='The text to go on from; "-" is standard input.', show_default=False)]
Toward = Annotated[
    list[str], typer.Option(metavar="TEXT", help="What to write like; may be repeated.", show_default=False)
]
Away = Annotated[list[str], typer.Option(metavar="TEXT", help="And what not, one for each.", show_default=False)]
Site = Annotated[str | None, typer.Option(help="Where; the stream that leaves the middle block without it.")]
Strength = Annotated[float, typer.Option(help="How many times the direction is added.")]
NewTokens = Annotated[int, typer.Option(min=1, help="Tokens to write.")]
DoSample = Annotated[bool, typer.Option("--do-sample", "--sample", help="Draw; without it, the highest logit wins.")]
Temperature = Annotated[float, typer.Option(help="Divides the logits; 1 leaves them.")]
TopP = Annotated[float, typer.Option(help="Keep the fewest tokens that sum to it; 1 keeps all.")]
Seed = Annotated[int, typer.Option(help="Of the draws, the same for both texts.")]
Save = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the edit as a recipe for --edits.")]


def steer(
    text: Text,
    toward: Toward,
    away: Away,
    site: Site = None,
    strength: Strength = 1.0,
    max_new_tokens: NewTokens = 40,
    do_sample: DoSample = False,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    save: Save = None,
    model: Model = None,
    quantize: Quantize = "int8",
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What the model writes with a direction added to its stream: toward some texts, away from others."""
    read = read_texts([text])[0]
    settings = {"max_new_tokens": max_new_tokens, "do_sample": do_sample, "temperature": temperature, "top_p": top_p}
    with busy("starting") as report:
        lm = open_model(model, quantize=quantize, dtype=dtype, device=device, offline=offline, report=report)
        from cutaway.analysis.steering import steer as steered
        from cutaway.ground.sites import block_exit

        where = site or block_exit(lm.config, lm.config.n_layers // 2)
        edit = steered(lm.decoder, lm.tokens(read_texts(toward)), lm.tokens(read_texts(away)), where, strength)
        if save is not None:
            lm.save_edits(edit, save)
            note(f"wrote the edit to {save}; --edits {save} applies it.")
        plain = lm.generate(read, seed=seed, **settings)
        pushed = lm.generate(read, seed=seed, edits=edit, **settings)
        effect = lm.effect(read, edit)
    if as_json:
        print_json({"model": lm.name, "edit": edit.as_data(), "without": plain.text, "with": pushed.text,
                    "effect": effect.as_data()})  # fmt: skip
        return
    from cutaway.show.effect import effect_table

    print(f"without:\n{plain}\n\n{strength:g} × the direction at {where}:\n{pushed}\n")
    print(effect_table(effect, lm.token_text))
