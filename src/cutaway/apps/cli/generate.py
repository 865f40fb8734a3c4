"""`cutaway generate`: the text that follows, written as it comes, and how each token was chosen.

It prints steps; it does not know how a token is chosen.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutaway.apps.cli.options import Debug, Device, Dtype, Json, Model, NoSpecial, Offline, Quantize, Texts
from cutaway.apps.cli.running import busy, cut, is_terminal, note, open_model, print_json, read_texts

if TYPE_CHECKING:
    from cutaway.analysis.effect import Effect
    from cutaway.lm import LM
    from cutaway.sample.step import Step
    from cutaway.text.pieces import Tokens
    from cutaway.trace.generation_trace import Recording

NewTokens = Annotated[int | None, typer.Option(help="Tokens to add to each text; 50 if no length is given.")]
MaxLength = Annotated[int | None, typer.Option(help="Tokens of text and answer together.")]
DoSample = Annotated[
    bool | None,
    typer.Option(
        "--do-sample/--no-do-sample",
        "--sample/--no-sample",
        help="Draw, or let the highest logit win; as the model's generation_config.json says without it, else no.",
    ),
]
Temperature = Annotated[float | None, typer.Option(help="Divides the logits; 1 leaves them.")]
TopK = Annotated[int | None, typer.Option(help="Keep the k highest; 0 keeps all, 50 without it.")]
TopP = Annotated[float | None, typer.Option(help="Keep the fewest tokens that sum to it; 1 keeps all.")]
MinP = Annotated[float | None, typer.Option(help="Keep tokens at least so many times as probable as the first.")]
Penalty = Annotated[
    float | None, typer.Option(help="Above 1, tokens already in the text lose; works without drawing too.")
]
Seed = Annotated[int | None, typer.Option(help="Of the draws, so that a run can be repeated; a fresh one without it.")]
Stop = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="Stop once the new text holds it; may be repeated.")
]
Steps = Annotated[bool, typer.Option("--steps", help="Show afterwards how each token was chosen.")]
EditsFile = Annotated[Path | None, typer.Option(metavar="RECIPE", help="Edits to do in every pass, a JSON file.")]
Sites = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Values to record, of prompt and new tokens; may be repeated."),
]
Save = Annotated[Path | None, typer.Option(metavar="FILE", help="Write what is recorded as a .safetensors file.")]
DRAWING = ("temperature", "top_k", "top_p", "min_p", "seed")  # of no effect where nothing is drawn
# What a terminal would obey instead of showing: ␛ for an escape. Newlines and tabs stay.
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
CONTROLS |= dict.fromkeys(range(0x7F, 0xA0), 0xFFFD)


def generate(
    texts: Texts,
    max_new_tokens: NewTokens = None,
    max_length: MaxLength = None,
    do_sample: DoSample = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: Penalty = None,
    seed: Seed = None,
    stop_strings: Stop = None,
    steps: Steps = False,
    no_special_tokens: NoSpecial = False,
    edits: EditsFile = None,
    sites: Sites = None,
    save: Save = None,
    model: Model = None,
    quantize: Quantize = "int8",
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write what follows a text, token by token.

    The names of the settings are those of transformers, and so is their meaning.
    """
    asked = {
        "max_new_tokens": max_new_tokens, "max_length": max_length, "temperature": temperature, "top_k": top_k,
        "top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty, "seed": seed,
        "stop_strings": tuple(stop_strings) if stop_strings else None, "do_sample": do_sample,
    }  # fmt: skip
    settings = {name: value for name, value in asked.items() if value is not None}
    prompts = read_texts(texts)
    with busy("starting") as report:
        _check(settings)  # a wrong number is told before anything is fetched
        lm = open_model(model, quantize=quantize, dtype=dtype, device=device, offline=offline, report=report)
        tokens = cut(lm, prompts, no_special_tokens)
        recording = lm.recording(tokens, sites or "*", edits=edits or (), **settings) if sites or save else None
        tap = {} if recording is None else {"tap": recording.tap}
        coming = lm.stream(tokens, edits=edits or (), **tap, **settings)  # checks the texts' lengths
    _note_unused(settings, lm.settings(settings).do_sample)
    _note_published(settings, lm.sampling)
    if as_json:
        done = list(coming)
        print_json(_data(lm, prompts, done) | {"effect": _effect(lm, tokens, done).as_data() if edits else None})
    else:
        done = list(_written(prompts[0], coming) if len(prompts) == 1 else _written_one_by_one(prompts, coming))
    _note_context(lm, done[-1])
    if steps and not as_json:
        _print_steps(done)
    if edits and not as_json:
        from cutaway.show.effect import effect_table

        print("\n" + effect_table(_effect(lm, tokens, done), lm.token_text))
    if recording is not None:
        _keep(recording, done, save, as_json)


def _effect(lm: "LM", prompts: "Tokens", steps: "list[Step]") -> "Effect":
    """What the edits did to the first new token."""
    from cutaway.analysis.effect import effect

    return effect(lm.trace(prompts, "logits", positions=-1)["logits"][:, 0], steps[0].logits)


def _keep(recording: "Recording", steps: "list[Step]", save: Path | None, as_json: bool) -> None:
    """The recorded values: written to a file, or shown as a table."""
    from cutaway.apps.cli.trace import table
    from cutaway.sample.generation import new_ids_of

    values = recording.trace(new_ids_of(steps, len(steps[0].ids)))
    if save is not None:
        values.save(save)
        note(f"wrote {len(values)} values to {save}.")
    elif not as_json:
        print("\n" + table(values))


def _check(settings: dict[str, Any]) -> None:
    from cutaway.sample.settings import Sampling

    Sampling(**settings)


def _note_unused(settings: dict[str, Any], draws: bool) -> None:
    unused = [f"--{name.replace('_', '-')}" for name in DRAWING if name in settings]
    if unused and not draws:
        note(f"{', '.join(unused)} without --do-sample: no effect, the highest logit wins.")


def _note_published(settings: dict[str, Any], published: dict[str, Any]) -> None:
    said = [f"{name}={value!r}" for name, value in published.items() if name not in settings]
    if said:
        note(f"as the model's generation_config.json says: {', '.join(said)}.")


def _written(prompt: str, coming: "Iterator[Step]") -> "Iterator[Step]":
    """The steps of one text, each printed as it comes. Whatever ends them, the line ends."""
    print(_faint(_shown(prompt)), end="", flush=True)
    try:
        for step in coming:
            print(_shown(step.text[0]), end="", flush=True)
            yield step
    finally:
        print(flush=True)


def _written_one_by_one(prompts: list[str], coming: "Iterator[Step]") -> "Iterator[Step]":
    """The steps of several texts, in whose order each is printed once it and those before it are over."""
    texts, printed = [""] * len(prompts), 0
    for step in coming:
        texts = [text + new for text, new in zip(texts, step.text, strict=True)]
        while printed < len(prompts) and step.ended[printed]:
            print(("\n" if printed else "") + _faint(_shown(prompts[printed])) + _shown(texts[printed]), flush=True)
            printed += 1
        yield step


def _print_steps(steps: "list[Step]") -> None:
    for step in steps:
        for row, over in enumerate(step.was_over.tolist()):
            if not over:
                print("\n" + step.table(row=row))


def _note_context(lm: "LM", last: "Step") -> None:
    """The end of the context is the one end that nobody asked for and nobody sees."""
    for row, reason in enumerate(last.ended):
        if reason == "context":
            which = "the text" if len(last.ended) == 1 else f"text {row + 1}"
            note(f"{which} ends here because it fills the model's context of {lm.config.n_positions} tokens.")


def _data(lm: "LM", prompts: list[str], steps: "list[Step]") -> dict[str, Any]:
    from cutaway.sample.generation import new_ids_of

    texts = [
        {"prompt": prompt, "text": "".join(step.text[row] for step in steps), "ids": list(ids), "ended": ended}
        for row, (prompt, ids, ended) in enumerate(
            zip(prompts, new_ids_of(steps, len(prompts)), steps[-1].ended, strict=True)
        )
    ]
    settings = steps[0].settings.as_data()  # with the seed that was drawn, so that the run can be repeated
    return {"model": lm.name, "settings": settings, "texts": texts, "steps": [step.as_data() for step in steps]}


def _shown(text: str) -> str:
    """The text as it is; on a terminal, with nothing in it that the terminal would obey."""
    return text.translate(CONTROLS) if is_terminal(sys.stdout) else text


def _faint(text: str) -> str:
    """What was given, told apart from what is new by a terminal that can."""
    return f"\x1b[2m{text}\x1b[0m" if is_terminal(sys.stdout) and not os.environ.get("NO_COLOR") else text
