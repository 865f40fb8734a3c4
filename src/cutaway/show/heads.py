"""What each attention head attends to: the scores of every head as data, the highest as a table, all as maps.

It does not know how a score is computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cutaway.analysis.heads import HeadScores
from cutaway.show.finding import Finding, long_form
from cutaway.show.layout import columns
from cutaway.show.pictures import Heatmap, Picture

UNREPEATED = "no induction: it needs a text whose second half is its first (or no text)"


@dataclass(frozen=True, eq=False, repr=False)
class HeadsFinding(Finding):
    """`scores.by_name[name]` [block, head], means over the texts. on: the texts in words. top: heads in the table."""

    scores: HeadScores
    top: int
    on: str

    @property
    def axes(self) -> Mapping[str, list[str]]:
        """The scores' names, then blocks and heads."""
        blocks, heads = next(iter(self.scores.by_name.values())).shape
        numbers = [str(i) for i in range(max(blocks, heads))]
        return {"score": list(self.scores.by_name), "block": numbers[:blocks], "head": numbers[:heads]}

    def to_dict(self) -> dict[str, Any]:
        data = {"model": self.model, "scores": {name: of.tolist() for name, of in self.scores.by_name.items()}}
        if self.scores.spread is not None:
            data["spread"] = {name: of.tolist() for name, of in self.scores.spread.items()}
        return data

    def records(self) -> list[dict[str, Any]]:
        axes = {name: labels for name, labels in self.axes.items() if name != "score"}
        rows = []
        for name, values in self.scores.by_name.items():
            spread = None if self.scores.spread is None else self.scores.spread[name]
            rows += [{"score": name} | row for row in long_form(axes, value=values, spread=spread)]
        return rows

    def __str__(self) -> str:
        rows = [
            (name, *(f"{layer}.{head} {score:.3f}" for layer, head, score in self.scores.top(name, self.top)))
            for name in self.scores.by_name
        ]
        title = f"block.head and score, the {self.top} highest of each, on {self.on}"
        lines = [title, columns(rows), "entropy: of the attention weights, in nats"]
        return "\n".join(lines if "induction" in self.scores.by_name else [*lines, UNREPEATED])

    def pictures(self) -> list[Picture]:
        _, blocks, heads = self.axes.values()
        return [
            Heatmap(f"{name}, on {self.on}", values.float(), blocks, heads, "block", "head",
                    "nats" if name == "entropy" else "attention weight")
            for name, values in self.scores.by_name.items()
        ]  # fmt: skip
