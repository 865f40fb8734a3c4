"""Generation: the result of `generate`: the prompt, the steps, the text.

It only holds results: it does not run the loop, and does not know what a trace is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cutaway.ground.display import Displayed
from cutaway.sample.settings import Sampling
from cutaway.sample.step import Step
from cutaway.sample.stopping import Reason
from cutaway.text.pieces import Tokens
from cutaway.text.stream import StreamDecoder


@dataclass(frozen=True, eq=False, repr=False)
class Generation(Displayed):
    """The result of `generate`.

    prompt [B, T]. steps: one for each token of the longest text. new_ids: of each text, with its eos or stop string,
    without the padding after its end. text: the new text alone, a string for one text and a list for a list. ended: why
    each text is finished, None where the caller stopped the run. prompt_text: of the same type as text. trace: the
    values recorded in the same pass, if any.
    """

    prompt: Tokens
    steps: tuple[Step, ...]
    new_ids: tuple[tuple[int, ...], ...]
    ended: tuple[Reason | None, ...]
    text: str | list[str]
    prompt_text: str | list[str] | None = None
    trace: Any = None

    @property
    def settings(self) -> Sampling | None:
        """The settings with the seed used, so that the run can be repeated; None for a run without a step."""
        return self.steps[0].settings if self.steps else None

    def __repr__(self) -> str:
        return f"<Generation {self.text!r}, ended {self.ended}; print it for prompt and text>"

    def __str__(self) -> str:
        """Prompt, where its text is known, and new text (ids without a tokenizer); an empty line between texts."""
        texts = [self.text] if isinstance(self.text, str) else self.text
        if self.steps and not any(step.text for step in self.steps):
            texts = [f"ids {' '.join(map(str, ids))}" for ids in self.new_ids]
        prompts = [self.prompt_text] if isinstance(self.prompt_text, str) else self.prompt_text
        if prompts is None:
            return "\n\n".join(texts)
        return "\n\n".join(prompt + text for prompt, text in zip(prompts, texts, strict=True))


def collect(
    prompt: Tokens,
    steps: Sequence[Step],
    *,
    prompt_text: str | list[str] | None = None,
    single: bool = False,
    trace: Any = None,
) -> Generation:
    """The Generation of one run's steps. single: its text is a string, not a list of one."""
    new_ids = new_ids_of(steps, len(prompt.ids))
    ended = steps[-1].ended if steps else (None,) * len(prompt.ids)
    texts = ["".join(step.text[row] for step in steps if step.text) for row in range(len(prompt.ids))]
    return Generation(prompt, tuple(steps), new_ids, ended, texts[0] if single else texts, prompt_text, trace)


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
