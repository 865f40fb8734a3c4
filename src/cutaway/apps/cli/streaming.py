"""What the verbs that write text share: the settings of generation as options, and steps printed as they come.

It does not know how a token is chosen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from cutaway.apps.cli.common import Options
from cutaway.apps.cli.options import (
    DoSample,
    MaxLength,
    MaxNewTokens,
    MinP,
    Penalty,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
)  # fmt: skip
from cutaway.apps.cli.terminal import faint, shown

if TYPE_CHECKING:
    from cutaway.sample.step import Step


@dataclass(frozen=True)
class SettingsOptions(Options):
    """The options of a verb that writes text: the settings of generation, in the order in which they act."""

    repetition_penalty: Penalty = None
    do_sample: DoSample = None
    temperature: Temperature = None
    top_k: TopK = None
    top_p: TopP = None
    min_p: MinP = None
    seed: Seed = None
    stop_strings: Stop = None
    max_new_tokens: MaxNewTokens = None
    max_length: MaxLength = None

    def settings(self, answer: bool = False) -> dict[str, Any]:
        """The settings that were given: where nothing is said, the model's own act. Raises BadArgument for a value that
        no run could use, before anything is fetched. answer: a chat's, which is as long as lm.chat's."""
        from cutaway.generating import ANSWER_TOKENS
        from cutaway.sample.settings import Sampling

        everywhere = {each.name for each in fields(Options)}
        given = {name: value for name, value in vars(self).items() if name not in everywhere}
        settings = {name: value for name, value in given.items() if value is not None and value != []}
        Sampling(**settings)
        if answer and not {"max_new_tokens", "max_length"} & settings.keys():
            settings["max_new_tokens"] = ANSWER_TOKENS
        return settings


def print_texts(before: Sequence[str], stream: "Iterator[Step]", labels: Sequence[str] | None) -> "Iterator[Step]":
    """The steps, printed: what stands before each text, the text, and why it ended; as print(lm.generate(...)) does.

    labels: what several texts are called. None prints texts alone, without their ends.
    """
    print_steps = _as_chosen if len(before) == 1 else _in_order
    yield from print_steps(before, stream, labels)


def _as_chosen(before: Sequence[str], stream: "Iterator[Step]", labels: Sequence[str] | None) -> "Iterator[Step]":
    """One text, each step as it is chosen; the line ends even after an error."""
    from cutaway.sample.generation import ending

    print(faint(shown(before[0])), end="", flush=True)
    last = None
    try:
        for last in stream:
            print(shown(last.text[0]), end="", flush=True)
            yield last
    finally:
        print(flush=True)
    if last is not None and labels is not None:
        print(faint(ending(last.ended[0], last.index + 1)), flush=True)


def _in_order(before: Sequence[str], stream: "Iterator[Step]", labels: Sequence[str] | None) -> "Iterator[Step]":
    """Several texts in their order, each once it and those before it have ended."""
    from cutaway.sample.generation import ending, label

    texts, counts, printed = [""] * len(before), [0] * len(before), 0
    for step in stream:
        texts = [text + new for text, new in zip(texts, step.text, strict=True)]
        counts = [count + (not over) for count, over in zip(counts, step.was_over.tolist(), strict=True)]
        while printed < len(before) and (why := step.ended[printed]):
            head = "" if labels is None else label(labels[printed], printed, len(before))
            head = faint(("\n" if printed else "") + shown(head)) if head else ""
            end = "" if labels is None else "\n" + faint(ending(why, counts[printed]))
            print(head + faint(shown(before[printed])) + shown(texts[printed]) + end, flush=True)
            printed += 1
        yield step
