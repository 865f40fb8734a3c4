"""What the answer loses without each head, as data, as the largest changes with bars, and as a map.

It does not know how a head is ablated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from cutaway.analysis.ablation import Ablation
from cutaway.show.finding import Finding, long_form
from cutaway.show.layout import WIDTH, columns, plus_minus
from cutaway.show.pictures import Bars, Heatmap, Picture

BAR = 20


@dataclass(frozen=True, eq=False, repr=False)
class AblationFinding(Finding):
    """`ablation.change.mean` [block, head]: the metric without the head minus the metric with all, a mean over texts.

    by: what a head's z is replaced with, in words. top: heads in the table. measure: the metric in words.
    """

    ablation: Ablation
    by: str
    top: int
    measure: str

    @property
    def axes(self) -> Mapping[str, list[str]]:
        """Blocks and heads."""
        blocks, heads = ([str(i) for i in range(n)] for n in self.ablation.change.mean.shape)
        return {"block": blocks, "head": heads}

    def to_dict(self) -> dict[str, Any]:
        change, whole = self.ablation.change, self.ablation.unablated
        data = {
            "model": self.model, "texts": change.texts, "measure": self.measure, "by": self.by,
            "unablated": float(whole.mean), "axes": list(self.axes), "change": change.mean.tolist(),
        }  # fmt: skip
        return data if change.spread is None else data | {"spread": change.spread.tolist()}

    def records(self) -> list[dict[str, Any]]:
        return long_form(self.axes, change=self.ablation.change.mean, spread=self.ablation.change.spread)

    def __str__(self) -> str:
        change, whole = self.ablation.change, self.ablation.unablated
        of = f" (means of {change.texts} texts, ± standard deviation)" if change.texts > 1 else ""
        title = f"{self.measure}: {plus_minus(whole.mean, whole.spread)} with all heads{of}"
        largest, rows = max(float(change.mean.abs().max()), 1e-30), []
        for block, head in self._largest():
            value = float(change.mean[block, head])
            bar = ("█" if value > 0 else "░") * round(BAR * abs(value) / largest)
            rows.append([f"{block}.{head}", plus_minus(change.mean, change.spread, (block, head)), bar])
        head = f"change without one head ({self.by}), the {len(rows)} largest of {change.mean.numel()}, as block.head"
        return "\n".join([*wrap(title, WIDTH), *wrap(head, WIDTH), columns(rows, right=(0, 1))])

    def _largest(self) -> list[tuple[int, int]]:
        order = self.ablation.change.mean.abs().flatten().argsort(descending=True)[: self.top].tolist()
        return [divmod(i, self.ablation.change.mean.shape[1]) for i in order]

    def pictures(self) -> list[Picture]:
        change, largest = self.ablation.change, self._largest()
        title, (blocks, heads) = f"change of the {self.measure} without one head", self.axes.values()
        spread = None if change.spread is None else [float(change.spread[at]) for at in largest]
        bars = Bars(f"{title}: the largest", [f"{b}.{h}" for b, h in largest],
                    [float(change.mean[at]) for at in largest], "logits", spread)  # fmt: skip
        return [Heatmap(title, change.mean.float(), blocks, heads, "block", "head", "logits", True), bars]
