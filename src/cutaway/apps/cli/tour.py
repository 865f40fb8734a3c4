"""`cutaway tour`: one sentence from text to text, every stage in view, from a single run of the model.

It prints the stages as they come; it does not know what is in them (show/tour).
"""

from typing import TYPE_CHECKING, Annotated

import typer

from cutaway.apps.cli.options import Debug, Device, Dtype, Json, Model, Offline, Quantize
from cutaway.apps.cli.running import busy, note, open_model, print_json, read_texts

if TYPE_CHECKING:
    from cutaway.sample.step import Step
    from cutaway.show.tour.stages import Tour

TEXT = "The sun rises in the"

TourTexts = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TEXT ...]", help=f'A text, or several; "{TEXT}" without one; "-" is standard input.'),
]
Block = Annotated[int, typer.Option(help="The block to look into, from 0.")]
Head = Annotated[int, typer.Option(help="The head to look at, from 0.")]
NewTokens = Annotated[int, typer.Option(help="Tokens to write.")]
Temperature = Annotated[float, typer.Option(help="Divides the logits; 0 is refused, --greedy takes the highest.")]
TopK = Annotated[int, typer.Option(help="Keep the k highest; 0 keeps all.")]
TopP = Annotated[float, typer.Option(help="Keep the fewest tokens that sum to it; 1 keeps all.")]
Seed = Annotated[int, typer.Option(help="Of the draws; the same seed draws the same text.")]
Greedy = Annotated[bool, typer.Option("--greedy", help="Draw nothing: the highest logit wins.")]


def tour(
    texts: TourTexts = None,
    block: Block = 0,
    head: Head = 0,
    max_new_tokens: NewTokens = 24,
    temperature: Temperature = 0.7,
    top_k: TopK = 50,
    top_p: TopP = 0.8,
    seed: Seed = 0,
    greedy: Greedy = False,
    model: Model = None,
    quantize: Quantize = "int8",
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Watch a text become tokens, vectors, attention, logits, a drawn word, and text."""
    prompts = read_texts(texts or [TEXT])
    settings = {"max_new_tokens": max_new_tokens, "do_sample": not greedy, "seed": seed}
    settings |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    with busy("starting") as report:
        from cutaway.sample.settings import Sampling
        from cutaway.show.tour.stages import Tour

        Sampling(**settings)  # a wrong number is told before anything is fetched
        lm = open_model(model, quantize=quantize, dtype=dtype, device=device, offline=offline, report=report)
        run = Tour(lm, prompts, block=block, head=head, **settings)
    if as_json:
        stages = [*run.stages(), run.draw_stage(list(run.steps()))]
        print_json({"model": lm.name, "stages": [vars(stage) for stage in stages]})
    else:
        _show(run)


def _show(run: "Tour") -> None:
    """The stages on a terminal, and the text as it is written."""
    from rich.console import Console
    from rich.text import Text

    from cutaway.show.tour.draw import WIDTH, body, draw, heading

    console = Console(width=WIDTH, highlight=False)
    for stage in run.stages():
        console.print(draw(stage))
    console.print(heading(run.draw_stage([run.first])))
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
    console.print(body(last))
    if "context" in steps[-1].ended:
        note(f"the text ends where the model's context of {run.lm.config.n_positions} tokens does.")
