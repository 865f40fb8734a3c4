"""`cutaway tour`: one text through every stage, from a single run of the model.

It prints the stages in order; it does not know their contents (show/tour).
"""

from typing import TYPE_CHECKING, Annotated

import typer

from cutaway.apps.cli.common import Options, busy, note, print_json, print_lines, read_texts, verb
from cutaway.apps.cli.options import Block, TopK, TopP

if TYPE_CHECKING:
    from cutaway.sample.step import Step
    from cutaway.tour.stages import Tour

TEXT = "The sun rises in the"

Texts = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TEXT ...]", help=f'A text, or several; "{TEXT}" without one; "-" is standard input.'),
]
Head = Annotated[int, typer.Option(help="The head to show, from 0.")]
NewTokens = Annotated[int, typer.Option(help="Tokens to write.")]
Temperature = Annotated[float, typer.Option(help="Divides the logits; 0 is refused, --greedy takes the highest.")]
Seed = Annotated[int, typer.Option(help="Of the draws; the same seed draws the same text.")]
DoSample = Annotated[bool, typer.Option("--sample/--greedy", help="Draw, or let the highest logit win.")]


@verb
def tour(
    options: Options,
    texts: Texts = None,
    block: Block = 0,
    head: Head = 0,
    max_new_tokens: NewTokens = 24,
    temperature: Temperature = 0.7,
    top_k: TopK = 50,
    top_p: TopP = 0.8,
    seed: Seed = 0,
    do_sample: DoSample = True,
) -> None:
    """Watch a text pass through the model. Tokens, vectors, attention, logits, the draw, and text."""
    prompts = read_texts(texts or [TEXT])
    settings = {"max_new_tokens": max_new_tokens, "do_sample": do_sample, "seed": seed}
    settings |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    with busy("starting") as report:
        from cutaway.sample.settings import Sampling
        from cutaway.tour.stages import Tour

        Sampling(**settings)  # a wrong number raises before anything is fetched
        lm = options.load(report)
        run = Tour(lm, prompts, block=block, head=head, **settings)
    if options.as_json:
        stages = [*run.stages(), run.draw_stage(list(run.steps()))]
        print_json({"model": lm.name, "stages": [vars(stage) for stage in stages]})
    else:
        _show(run)


def _show(run: "Tour") -> None:
    """The stages on a terminal, and the text as it is generated."""
    from rich.console import Console
    from rich.text import Text

    from cutaway.show.layout import WIDTH
    from cutaway.tour.draw import body, draw, heading

    console = Console(width=WIDTH, highlight=False)
    for stage in run.stages():
        print_lines(draw(stage))
    print_lines(heading(run.draw_stage([run.first])))
    console.print(Text(run.texts[run.row], "dim"), end="")
    steps: list[Step] = []
    try:
        for step in run.steps():
            console.print(Text(step.text[run.row], "bold"), end="", soft_wrap=True)
            steps.append(step)
    finally:
        console.print()
    last = run.draw_stage(steps)
    for text in last.data["texts"][1:]:
        console.print(Text.assemble((text["prompt"], "dim"), (text["text"], "bold")), soft_wrap=True)
    console.print()
    print_lines(body(last))
    if "context" in steps[-1].ended:
        note(f"the text ends where the model's context of {run.lm.config.n_positions} tokens does.")
