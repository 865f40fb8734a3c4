"""`cutaway generate`: a text's continuation, streamed, and how each token was chosen.

It prints steps; it does not know how a token is chosen.
"""

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutaway.apps.cli.common import Options, busy, is_terminal, note, print_json, read_texts, verb
from cutaway.apps.cli.options import EditsFile, NoSpecial, Save, Temperature, Texts, TopK, TopP

if TYPE_CHECKING:
    from cutaway.analysis.effect import Effect
    from cutaway.lm import LM
    from cutaway.sample.step import Step
    from cutaway.text.pieces import Tokens

NewTokens = Annotated[int | None, typer.Option(help="Tokens to add to each text; 50 if no length is given.")]
MaxLength = Annotated[int | None, typer.Option(help="Tokens of prompt and new text, in all.")]
DoSample = Annotated[
    bool | None,
    typer.Option(
        "--do-sample/--no-do-sample",
        "--sample/--no-sample",
        help="Draw, or let the highest logit win; without it, as in the model's generation_config.json, else no.",
    ),
]
MinP = Annotated[float | None, typer.Option(help="Keep tokens at least so many times as probable as the first.")]
Penalty = Annotated[
    float | None, typer.Option(help="Above 1, tokens already in the text lose; works without drawing too.")
]
Seed = Annotated[int | None, typer.Option(help="Of the draws, so that a run can be repeated; a fresh one without it.")]
Stop = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="Stop once the new text holds it; may be repeated.")
]
Steps = Annotated[bool, typer.Option("--steps", help="Show afterwards how each token was chosen.")]
Sites = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Values to record, of prompt and new tokens; may be repeated."),
]
DRAWING = ("temperature", "top_k", "top_p", "min_p", "seed")  # no effect where nothing is drawn
# Control characters, shown as symbols: ␛ for an escape. Newlines and tabs stay.
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
CONTROLS |= dict.fromkeys(range(0x7F, 0xA0), 0xFFFD)


@verb
def generate(
    options: Options,
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
) -> None:
    """Write what follows a text, token by token.

    The names of the settings are those of transformers, and so is their meaning.
    """
    given = {
        "max_new_tokens": max_new_tokens, "max_length": max_length, "temperature": temperature, "top_k": top_k,
        "top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty, "seed": seed,
        "stop_strings": tuple(stop_strings) if stop_strings else None, "do_sample": do_sample,
    }  # fmt: skip
    settings = {name: value for name, value in given.items() if value is not None}
    prompts = read_texts(texts)
    with busy("starting") as report:
        from cutaway.model.tap import untapped
        from cutaway.sample.generation import new_ids_of
        from cutaway.sample.settings import Sampling

        Sampling(**settings)  # a wrong number raises before anything is fetched
        lm = options.load(report)
        tokens = lm.tokens(prompts, not no_special_tokens)
        recording = lm.recording(tokens, sites or "*", edits=edits or (), **settings) if sites or save else None
        tap = untapped if recording is None else recording.tap
        stream = lm.stream(tokens, edits=edits or (), tap=tap, **settings)  # checks the texts' lengths
    _note_settings(settings, lm.settings(settings).do_sample, lm.sampling)
    print_steps = _print_text if len(prompts) == 1 else _print_texts
    done = list(stream if options.as_json else print_steps(prompts, stream))
    _note_context(lm, done[-1])
    from cutaway.show.generation import Written  # here: the first token need not wait for it

    changed = _changed(lm, tokens, done[0]) if edits else None
    values = None if recording is None else recording.trace(new_ids_of(done, len(prompts)))
    found = Written(lm.name, lm.token_text, prompts, done, changed, None if save else values, steps)
    if options.as_json:
        print_json(found.as_data())
    elif str(found):
        print(f"\n{found}")
    if save is not None and values is not None:
        values.save(save)
        note(f"wrote {len(values)} values to {save}.")


def _changed(lm: "LM", tokens: "Tokens", first: "Step") -> "Effect":
    """What the edits did to the first new token."""
    from cutaway.analysis.effect import effect

    return effect(lm.trace(tokens, "logits", positions=-1)["logits"][:, 0], first.logits)


def _note_settings(given: dict[str, Any], draws: bool, published: dict[str, Any]) -> None:
    unused = [f"--{name.replace('_', '-')}" for name in DRAWING if name in given]
    if unused and not draws:
        note(f"{', '.join(unused)} without --do-sample: no effect, the highest logit wins.")
    published_only = [f"{name}={value!r}" for name, value in published.items() if name not in given]
    if published_only:
        note(f"as the model's generation_config.json says: {', '.join(published_only)}.")


def _print_text(prompts: list[str], stream: "Iterator[Step]") -> "Iterator[Step]":
    """The steps of one text, each printed as it is chosen; the line ends even after an error."""
    print(_faint(_shown(prompts[0])), end="", flush=True)
    try:
        for step in stream:
            print(_shown(step.text[0]), end="", flush=True)
            yield step
    finally:
        print(flush=True)


def _print_texts(prompts: list[str], stream: "Iterator[Step]") -> "Iterator[Step]":
    """The steps of several texts, printed in their order, each once it and those before it have ended."""
    texts, printed = [""] * len(prompts), 0
    for step in stream:
        texts = [text + new for text, new in zip(texts, step.text, strict=True)]
        while printed < len(prompts) and step.ended[printed]:
            print(("\n" if printed else "") + _faint(_shown(prompts[printed])) + _shown(texts[printed]), flush=True)
            printed += 1
        yield step


def _note_context(lm: "LM", last: "Step") -> None:
    """An end that no option set and no text shows: that of the context."""
    for row, reason in enumerate(last.ended):
        if reason == "context":
            which = "the text" if len(last.ended) == 1 else f"text {row + 1}"
            note(f"{which} ends here because it fills the model's context of {lm.config.n_positions} tokens.")


def _shown(text: str) -> str:
    """The text; on a terminal, with its control characters as symbols."""
    return text.translate(CONTROLS) if is_terminal(sys.stdout) else text


def _faint(text: str) -> str:
    """The prompt, dimmed on a terminal."""
    return f"\x1b[2m{text}\x1b[0m" if is_terminal(sys.stdout) and not os.environ.get("NO_COLOR") else text
