"""A run of `generate`: its texts and steps as data; and, as text, how each token was chosen and what was recorded.

It does not know how a token is chosen, nor how the text is streamed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cutaway.analysis.effect import Effect
from cutaway.sample.generation import new_ids_of
from cutaway.sample.step import Step
from cutaway.show.effect import effect_table
from cutaway.show.trace import table
from cutaway.trace.trace import Trace


@dataclass(frozen=True)
class Written:
    """token_text: the text of an id. effect: of the edits, if there were any. values: recorded ones, to be drawn.

    draw_steps: whether to show how each token was chosen.
    """

    model: str
    token_text: Callable[[int], str]
    prompts: Sequence[str]
    steps: Sequence[Step]
    effect: Effect | None
    values: Trace | None
    draw_steps: bool

    def as_data(self) -> dict[str, Any]:
        new_ids, ended = new_ids_of(self.steps, len(self.prompts)), self.steps[-1].ended
        texts = [
            {"prompt": prompt, "text": "".join(step.text[row] for step in self.steps), "ids": list(ids), "ended": why}
            for row, (prompt, ids, why) in enumerate(zip(self.prompts, new_ids, ended, strict=True))
        ]
        settings = self.steps[0].settings.as_data()  # with the seed that was drawn, so that the run can be repeated
        run = {"settings": settings, "texts": texts, "steps": [step.as_data() for step in self.steps]}
        return {"model": self.model, **run, "effect": self.effect and self.effect.as_data()}

    def __str__(self) -> str:
        parts = []
        for step in self.steps if self.draw_steps else ():
            parts += [step.table(row=row) for row, over in enumerate(step.was_over.tolist()) if not over]
        parts += [] if self.effect is None else [effect_table(self.effect, self.token_text)]
        return "\n\n".join(parts if self.values is None else [*parts, table(self.values)])
