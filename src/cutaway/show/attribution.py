"""Which part of a model wrote a token's logit, as data, as bars, and by head as a map.

It does not know how a part's share is computed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import torch

from cutaway.analysis.attribution import Attributions
from cutaway.show.finding import Finding, long_form
from cutaway.show.layout import WIDTH
from cutaway.show.pictures import Bars, Heatmap, Picture

BAR = 24  # columns of the largest part's bar
TOP = 20  # parts in a picture


@dataclass(frozen=True, eq=False, repr=False)
class AttributionFinding(Finding):
    """`parts.values` [part], which sum to `parts.logit`: means over the texts.

    by: how the model was split. top: parts that are drawn, the largest first. words: the text of each text's answer.
    measure: the logit in words.
    """

    parts: Attributions
    by: str
    top: int
    words: tuple[str, ...]
    measure: str

    @property
    def axes(self) -> Mapping[str, tuple[str, ...]]:
        """The parts, in the order of the pass."""
        return {"part": self.parts.what}

    def to_dict(self) -> dict[str, Any]:
        logit, values, one = self.parts.logit, self.parts.values, len(self.words) == 1
        versus = self.parts.against
        data = {
            "model": self.model, "texts": len(self.words),
            "token": self.parts.answers[0] if one else list(self.parts.answers),
            "text": self.words[0] if one else list(self.words),
            "versus": None if versus is None else versus[0] if one else list(versus),
            "logit": float(logit.mean), "by": self.by, "parts": [],
        }  # fmt: skip
        data["parts"] = [{"part": w, "gives": v} for w, v in zip(self.parts.what, values.mean.tolist(), strict=True)]
        if values.spread is not None and logit.spread is not None:
            data["spread"] = float(logit.spread)
            for part, spread in zip(data["parts"], values.spread.tolist(), strict=True):
                part["spread"] = spread
        return data

    def records(self) -> list[dict[str, Any]]:
        return long_form(self.axes, gives=self.parts.values.mean, spread=self.parts.values.spread)

    def __str__(self) -> str:
        logit, texts = self.parts.logit, len(self.words)
        spread = "" if logit.spread is None else f" ± {float(logit.spread):.4g} (mean of {texts} texts)"
        title = f"{self.measure} = {float(logit.mean):.4g}{spread}, the sum of {len(self.parts.what):,} parts"
        return "\n".join([*wrap(title, WIDTH), *self._bars()])

    def _largest(self) -> list[int]:
        return self.parts.values.mean.abs().argsort(descending=True).tolist()

    def _bars(self) -> list[str]:
        """The parts, largest first, and the sum of those that are not drawn."""
        order, lines = self._largest(), []
        values, spread = self.parts.values.mean.tolist(), self.parts.values.spread
        size = max(abs(values[order[0]]), 1e-30)
        for i in order[: self.top]:
            bar = ("█" if values[i] > 0 else "░") * round((BAR if spread is None else BAR // 2) * abs(values[i]) / size)
            apart = "" if spread is None else f" ± {float(spread[i]):<9.4f}"
            lines.append(f"{self.parts.what[i]:<36}{values[i]:>+10.4f}{apart}  {bar}".rstrip())
        rest = [values[i] for i in order[self.top :]]
        return [*lines, f"sum of {len(rest):,} more".ljust(36) + f"{sum(rest):>+10.4f}"] if rest else lines

    def pictures(self) -> list[Picture]:
        order, values, spread = self._largest()[:TOP], self.parts.values.mean, self.parts.values.spread
        spreads = None if spread is None else spread[order].tolist()
        labels = [self.parts.what[i] for i in order]
        title = f"{self.measure}: the {len(order)} largest of {len(self.parts.what):,} parts"
        return [Bars(title, labels, values[order].tolist(), "logits", spreads), *self._map()]

    def _map(self) -> list[Picture]:
        """Of heads: block x head."""
        found = [(re.fullmatch(r"blocks\.(\d+)\.attn head (\d+)", what), i) for i, what in enumerate(self.parts.what)]
        at = {(int(match[1]), int(match[2])): i for match, i in found if match}
        if not at:
            return []
        blocks, heads = (range(1 + max(index)) for index in zip(*at, strict=True))
        index = torch.tensor([[at[block, head] for head in heads] for block in blocks], device="cpu")
        names = [str(block) for block in blocks], [str(head) for head in heads]
        values = self.parts.values.mean[index]
        return [Heatmap(f"{self.measure}, by head", values, *names, "block", "head", "logits", diverging=True)]
