"""The logit lens: the likeliest next tokens after each block, as data, as a table and as a picture with words.

It knows the text of ids; it does not know how a stream is read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from textwrap import wrap
from typing import Any

from cutaway.analysis.logit_lens import Lens
from cutaway.show.finding import Finding, long_form
from cutaway.show.layout import WIDTH, columns, percent, plus_minus
from cutaway.show.pictures import Heatmap, Lines, Picture
from cutaway.text.table import visible

CELL = 14  # characters of a token's text


@dataclass(frozen=True, eq=False, repr=False)
class LensFinding(Finding):
    """`lens.probability` [site, rank] of the tokens `lens.ids`, averaged over the texts.

    words: the text of each id. positions: the one that was read in each text. measure: of `lens.difference`, in words.
    """

    lens: Lens
    words: dict[int, str]
    positions: tuple[int, ...]
    measure: str = ""

    @property
    def axes(self) -> Mapping[str, list[str]]:
        """After which site; the rank of the token there."""
        return {"site": list(self.lens.sites), "rank": [str(i + 1) for i in range(self.lens.ids.shape[1])]}

    def to_dict(self) -> dict[str, Any]:
        rows = []
        for i, site in enumerate(self.lens.sites):
            rows.append({"site": site, "tokens": [self._token(i, rank) for rank in range(self.lens.ids.shape[1])]})
            if self.lens.difference is not None:
                of = self.lens.difference
                rows[-1] |= {"answer": float(of.mean[i]), "spread": None if of.spread is None else float(of.spread[i])}
        at = self.positions[0] if len(self.positions) == 1 else list(self.positions)
        return {"model": self.model, "texts": self.lens.texts, "position": at, "measure": self.measure, "rows": rows}

    def _token(self, row: int, rank: int) -> dict[str, Any]:
        id, p, spread = self.lens.ids[row, rank].item(), self.lens.probability[row, rank].item(), self.lens.spread
        token = {"id": id, "text": self.words[int(id)], "probability": p}
        return token if spread is None else token | {"spread": float(spread[row, rank])}

    def records(self) -> list[dict[str, Any]]:
        values = {"id": self.lens.ids, "probability": self.lens.probability, "spread": self.lens.spread}
        rows = [row | {"text": self.words[row["id"]]} for row in long_form(self.axes, **values)]
        if self.lens.difference is None:
            return rows
        of = dict(zip(self.lens.sites, self.lens.difference.mean.tolist(), strict=True))
        return [row | {"answer": of[row["site"]]} for row in rows]

    def __str__(self) -> str:
        return table(self, drawn(self))

    def pictures(self) -> list[Picture]:
        across, sites = self.axes["rank"], list(self.lens.sites)
        words = [[self.words[id] for id in row] for row in self.lens.ids.tolist()]
        probability = self.lens.probability.float()
        of = f"mean of {self.lens.texts} texts" if self.lens.texts > 1 else "one text"
        shown: list[Picture] = [Heatmap(f"the likeliest next tokens after each block, {of}", probability, sites, across,
                                        "after", "rank", "probability", words=words)]  # fmt: skip
        if self.lens.difference is not None:
            series = {self.measure: self.lens.difference.mean.tolist()}
            shown.append(Lines(f"{self.measure}, after each block", sites, series, "after", "logits"))
        return shown


def lens_finding(model: str, lens: Lens, word: Callable[[int], str], **more: Any) -> LensFinding:
    """word: the text of an id. more: the other fields. Tokens that do not fit in 80 columns are counted in a note."""
    words = {id: word(id) for id in lens.ids.unique().tolist()}
    found = LensFinding(lens, words, model=model, **more)
    count, fit = lens.ids.shape[1], drawn(found)
    left_out = () if fit == count else (f"{fit} of {count} tokens fit in a line; --json has all.",)
    return replace(found, notes=(*found.notes, *left_out))


def drawn(found: LensFinding) -> int:
    """How many tokens of a block fit in 80 columns, one at least."""
    count = min(found.lens.ids.shape[1], WIDTH)
    while count > 1 and max(map(len, table(found, count).splitlines())) > WIDTH:
        count -= 1
    return count


def table(found: LensFinding, count: int) -> str:
    """A row a block, with `count` tokens."""
    lens, title = found.lens, []
    head, rows = ["after", "next token", *[""] * (count - 1)], []
    for i, (site, ids) in enumerate(zip(lens.sites, lens.ids.tolist(), strict=True)):
        cells = [
            f"{visible(found.words[id].encode())[:CELL]} {percent(lens.probability[i, rank], lens.spread, (i, rank))}"
            for rank, id in enumerate(ids[:count])
        ]
        rows.append([site, *cells])
    if lens.texts > 1:
        title = [f"{lens.texts} texts: probabilities averaged, ± their standard deviation"]
    if lens.difference is not None:
        of = lens.difference
        title = [*title, *wrap(f"answer: {found.measure}", WIDTH)]
        head = [head[0], "answer", *head[1:]]
        rows = [[row[0], plus_minus(of.mean, of.spread, i), *row[1:]] for i, row in enumerate(rows)]
    return "\n".join([*title, columns([head, *rows])])
