"""`cutaway generate`: a text's continuation, streamed, and how each token was chosen.

It prints steps; it does not know how a token is chosen.
"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutaway.apps.cli.common import busy, note, print_json, read_texts, verb
from cutaway.apps.cli.options import EditsFile, NoSpecial, Save, Texts
from cutaway.apps.cli.streaming import SettingsOptions, print_texts

if TYPE_CHECKING:
    from cutaway.analysis.effect import Effect
    from cutaway.lm import LM
    from cutaway.sample.step import Step
    from cutaway.text.pieces import Tokens

Chat = Annotated[bool, typer.Option("--chat", help="TEXT is a user's message, answered by the chat template.")]
TextAlone = Annotated[bool, typer.Option("--text", help="Print the new text alone, without prompt and notes.")]
Steps = Annotated[bool, typer.Option("--steps", help="Show afterwards how each token was chosen; in --json too.")]
Sites = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Values to record, of prompt and new tokens; may be repeated."),
]
DRAWING = ("temperature", "top_k", "top_p", "min_p", "seed")  # no effect where nothing is drawn


@verb
def generate(
    options: SettingsOptions,
    texts: Texts,
    chat: Chat = False,
    text_alone: TextAlone = False,
    steps: Steps = False,
    no_special_tokens: NoSpecial = False,
    edits: EditsFile = None,
    sites: Sites = None,
    save: Save = None,
) -> None:
    """Write what follows a text, token by token. With --chat, the answer to it.

    The settings, from --repetition-penalty on, act in the order in which they are listed. Their names are those of
    transformers, and so is their meaning.
    """
    prompts, bare, quiet = read_texts(texts), not (chat or no_special_tokens), text_alone or options.as_json
    with busy("starting") as report:
        from cutaway.model.tap import untapped
        from cutaway.sample.generation import new_ids_of
        from cutaway.text.chat import chat_prompt

        settings = options.settings(answer=chat)
        lm = options.load(report, notes=not text_alone)
        read = [chat_prompt(lm.tokenizer, text) for text in prompts] if chat else prompts
        tokens = lm.tokens(read, bare)
        recording = lm.recording(tokens, sites or "*", edits=edits or (), **settings) if sites or save else None
        tap = untapped if recording is None else recording.tap
        stream = lm.stream(tokens, edits=edits or (), tap=tap, **settings)  # checks the texts' lengths
    if bare and not quiet and lm.lacks_chat_template(tokens):
        note("this model was trained on a chat template: with --chat it answers a text, and so does cutaway chat.")
    if not text_alone:
        _note_settings(settings, lm.settings(settings).do_sample, lm.sampling)
    shown = [""] * len(prompts) if text_alone or chat else prompts
    done = list(stream if options.as_json else print_texts(shown, stream, None if text_alone else prompts))
    if not text_alone:
        _note_context(lm, done[-1])
    from cutaway.show.generation import Written  # here: the first token need not wait for it

    changed = _changed(lm, tokens, done[0]) if edits else None
    values = None if recording is None else recording.trace(new_ids_of(done, len(prompts)))
    found = Written(lm.name, lm.token_text, read, done, changed, None if save else values, steps)
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
        note(f"{', '.join(unused)} without --sample: no effect, the highest logit wins.")
    published_only = [f"{name}={value!r}" for name, value in published.items() if name not in given]
    if published_only:
        note(f"as the model's generation_config.json says: {', '.join(published_only)}.")


def _note_context(lm: "LM", last: "Step") -> None:
    """An end that no option set and no text shows: that of the context."""
    for row, reason in enumerate(last.ended):
        if reason == "context":
            which = "the text" if len(last.ended) == 1 else f"text {row + 1}"
            note(f"{which} ends here because it fills the model's context of {lm.config.n_positions} tokens.")
