"""`cutaway steer`: a direction from pairs of texts, added during generation.

It prints both texts; it does not know how a direction is computed.
"""

from pathlib import Path
from typing import Annotated

import typer

from cutaway.apps.cli.common import Options, note, read_texts, verb
from cutaway.apps.cli.options import Temperature, TopP

Text = Annotated[
    str, typer.Argument(metavar="TEXT", help='The text to continue; "-" is standard input.', show_default=False)
]
Toward = Annotated[
    list[str], typer.Option(metavar="TEXT", help="What to write like; may be repeated.", show_default=False)
]
Away = Annotated[list[str], typer.Option(metavar="TEXT", help="And what not, one for each.", show_default=False)]
Site = Annotated[str | None, typer.Option(help="Where; without it, the residual stream after the middle block.")]
Strength = Annotated[float, typer.Option(help="How many times the direction is added.")]
NewTokens = Annotated[int, typer.Option(min=1, help="Tokens to write.")]
DoSample = Annotated[bool, typer.Option("--sample/--greedy", "--do-sample", help="Draw, or let the highest logit win.")]
Seed = Annotated[int, typer.Option(help="Of the draws, the same for both texts.")]
Save = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the edit as a recipe for --edits.")]


@verb
def steer(
    options: Options,
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
) -> None:
    """Generate with a direction added to the residual stream: toward some texts, away from others."""
    read = read_texts([text])[0]
    settings = {"max_new_tokens": max_new_tokens, "do_sample": do_sample, "temperature": temperature, "top_p": top_p}
    with options.opened() as lm:
        from cutaway.analysis.steering import steer as steered
        from cutaway.ground.sites import block_exit
        from cutaway.show.steering import finding

        where = site or block_exit(lm.config, lm.config.n_layers // 2)
        edit = steered(lm.decoder, lm.tokens(read_texts(toward)), lm.tokens(read_texts(away)), where, strength)
        if save is not None:
            lm.save_edits(edit, save)
            note(f"wrote the edit to {save}; --edits {save} applies it.")
        title = f"{strength:g} × the direction at {where}"
        found = finding(lm, read, edit, title, seed=seed, **settings)
    options.print(found)
