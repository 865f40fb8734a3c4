"""`cutaway steer`: a direction from pairs of texts, added during generation.

It prints both texts; it does not know how a direction is computed.
"""

from pathlib import Path
from typing import Annotated

import typer

from cutaway.apps.cli.common import Options, note, read_texts, verb
from cutaway.apps.cli.options import Temperature, Texts, TopP

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
    texts: Texts,
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
    """Generate toward some texts, away from others. A direction is added to the residual stream."""
    read = read_texts(texts)
    settings = {"max_new_tokens": max_new_tokens, "do_sample": do_sample, "temperature": temperature, "top_p": top_p}
    with options.opened() as lm:
        directions = {"toward": read_texts(toward), "away": read_texts(away), "site": site, "strength": strength}
        found = lm.steer(read, **directions, **settings, seed=seed)
        if save is not None:
            lm.save_edits(found.edit, save)
            note(f"wrote the edit to {save}; --edits {save} applies it.")
    options.print(found)
