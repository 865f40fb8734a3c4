"""What a model writes without and with a steering edit, and what it does to the next token: as data and as text.

It does not know how the edit's direction was found.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cutaway.edit.edit import Edit
from cutaway.show.effect import EffectFinding
from cutaway.show.finding import Finding
from cutaway.show.pictures import Picture


@dataclass(frozen=True, eq=False, repr=False)
class SteeringFinding(Finding):
    """edit: for `edits=`. without, steered: prompt and new text of each text; new: the new text of both.

    effect: of the edit on the first new token. title: the edit in words.
    """

    edit: Edit
    without: tuple[str, ...]
    steered: tuple[str, ...]
    new: tuple[tuple[str, ...], tuple[str, ...]]
    effect: EffectFinding
    title: str

    @property
    def axes(self) -> Mapping[str, list[str]]:
        """The texts, by number."""
        return self.effect.axes

    def to_dict(self) -> dict[str, Any]:
        single = len(self.without) == 1
        without, steered = (texts[0] if single else list(texts) for texts in self.new)
        return {
            "model": self.model, "edit": self.edit.as_data(), "without": without, "with": steered,
            "effect": self.effect.to_dict(),
        }  # fmt: skip

    def records(self) -> list[dict[str, Any]]:
        rows = zip(*self.new, self.effect.kl, strict=True)
        return [{"text": i, "without": a, "with": b, "kl": kl} for i, (a, b, kl) in enumerate(rows)]

    def __str__(self) -> str:
        parts = []
        for i, (without, steered) in enumerate(zip(self.without, self.steered, strict=True)):
            which = f"text {i + 1} of {len(self.without)}, " if len(self.without) > 1 else ""
            parts += [f"{which}without:\n{without}", f"{which}{self.title}:\n{steered}"]
        return "\n\n".join([*parts, str(self.effect)])

    def pictures(self) -> list[Picture]:
        return self.effect.pictures()
