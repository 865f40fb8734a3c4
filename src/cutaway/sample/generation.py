"""Generation: the result of `generate`: the prompt, the steps, the text.

It only holds results: it does not run the loop, and does not know what a trace is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cutaway.ground.display import Displayed
from cutaway.ground.packed import Kept
from cutaway.sample.kept_cache import KeptCache
from cutaway.sample.settings import Sampling
from cutaway.sample.step import Step
from cutaway.sample.stopping import Reason
from cutaway.text.pieces import Tokens
from cutaway.text.stream import StreamDecoder


@dataclass(frozen=True, eq=False, repr=False)
class Generation(Kept, Displayed):
    """The result of `generate`.

    prompt [B, T]. steps: one for each token of the longest text. new_ids: of each text, with its eos or stop string,
    without the padding after its end. text: the new text alone, a string for one text and a list for a list. ended: why
    each text is finished, None where the caller stopped the run. prompt_text: of the same type as text. trace: the
    values recorded in the same pass, if any. note: one sentence on how the prompt was read, if there is one to say.
    cache: keys and values of what was read, where the caller keeps them for `fork`; a pickle or a copy has none. edits:
    those of its passes, which `fork` takes; None in a pickle or a copy where one of them is a function.
    """

    prompt: Tokens
    steps: tuple[Step, ...]
    new_ids: tuple[tuple[int, ...], ...]
    ended: tuple[Reason | None, ...]
    text: str | list[str]
    prompt_text: str | list[str] | None = None
    trace: Any = None
    note: str = ""
    cache: KeptCache | None = None
    edits: tuple[Any, ...] | None = ()

    def __getstate__(self) -> dict[str, Any]:
        functions = any(edit.fn is not None for edit in self.edits or ())
        return super().__getstate__() | {"cache": None, "edits": None if functions else self.edits}

    @property
    def settings(self) -> Sampling | None:
        """The settings with the seed used, so that the run can be repeated; None for a run without a step."""
        return self.steps[0].settings if self.steps else None

    def __repr__(self) -> str:
        """One line, however long the texts are."""
        texts = [self.text] if isinstance(self.text, str) else self.text
        first = "" if not texts else repr(texts[0]) if len(texts[0]) <= 80 else repr(texts[0][:80]) + "…"
        more = f" and {len(texts) - 1} more" if len(texts) > 1 else ""
        note = f"; {self.note}" if self.note else ""
        return f"<Generation {first}{more} {self.endings()[0]}; print it for prompt and text{note}>"

    def __str__(self) -> str:
        """Prompt, where its text is known, new text (ids without a tokenizer), and why it ended; several texts each
        under its label. The note only where a text is empty."""
        texts = [self.text] if isinstance(self.text, str) else self.text
        if self.steps and not any(step.text for step in self.steps):
            texts = [f"ids {' '.join(map(str, ids))}" for ids in self.new_ids]
        prompts = [self.prompt_text] if isinstance(self.prompt_text, str) else self.prompt_text
        prompts = [""] * len(texts) if prompts is None else prompts
        blocks = [
            f"{label(prompt, row, len(texts))}{prompt}{text}\n{ending}"
            for row, (prompt, text, ending) in enumerate(zip(prompts, texts, self.endings(), strict=True))
        ]
        notes = [f"({self.note})"] if self.note and not all(texts) else []
        return "\n\n".join([*blocks, *notes])

    def endings(self) -> list[str]:
        """Why each text ended, and after how many tokens: "(ended: length, 50 tokens)"."""
        return [ending(why, len(ids)) for why, ids in zip(self.ended, self.new_ids, strict=True)]


def label(prompt: str, row: int, count: int) -> str:
    """The line above one of several texts: its number and its prompt's beginning. Empty for a single one."""
    beginning = f"{prompt[:40]}…" if len(prompt) > 40 else prompt
    return f"text {row + 1} of {count}{f': {beginning!r}' if prompt else ''}\n" if count > 1 else ""


def ending(why: Reason | None, count: int) -> str:
    """Why a text of `count` new tokens ended, in words."""
    return f"({f'ended: {why}' if why else 'not ended'}, {count} token{'s' * (count != 1)})"


def collect(
    prompt: Tokens,
    steps: Sequence[Step],
    *,
    prompt_text: str | list[str] | None = None,
    single: bool = False,
    trace: Any = None,
    note: str = "",
    cache: KeptCache | None = None,
    edits: Sequence[Any] = (),
) -> Generation:
    """The Generation of one run's steps. single: its text is a string, not a list of one."""
    new_ids = new_ids_of(steps, len(prompt.ids))
    ended = steps[-1].ended if steps else (None,) * len(prompt.ids)
    texts = ["".join(step.text[row] for step in steps if step.text) for row in range(len(prompt.ids))]
    text = texts[0] if single else texts
    return Generation(prompt, tuple(steps), new_ids, ended, text, prompt_text, trace, note, cache, tuple(edits))


def new_ids_of(steps: Sequence[Step], batch: int) -> tuple[tuple[int, ...], ...]:
    """The new ids of each text of a batch, without the padding after its end."""
    rows = [(step.ids.tolist(), step.was_over.tolist()) for step in steps]
    return tuple(tuple(ids[row] for ids, over in rows if not over[row]) for row in range(batch))


def new_text(step: Step, decoders: Sequence[StreamDecoder]) -> tuple[str, ...]:
    """What each text gained at this step: nothing where it was over, the decoder's held-back rest where it ends."""
    gained = []
    for decoder, token, over, ended in zip(
        decoders, step.ids.tolist(), step.was_over.tolist(), step.ended, strict=False
    ):
        text = "" if over else decoder.push(token)
        gained.append(text + decoder.flush() if ended and not over else text)
    return tuple(gained)
