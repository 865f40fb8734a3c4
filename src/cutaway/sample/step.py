"""Step: everything that chose one token of each text, stored for inspection.

It stores the logits and recomputes each filter on demand. It does not know the decoder, nor a tokenizer: `show` gives
a token's text.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, SupportsIndex

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.ground.display import Displayed
from cutaway.ground.errors import BadArgument
from cutaway.ground.packed import Kept
from cutaway.ground.whole import require_whole, whole
from cutaway.sample.choose import interval
from cutaway.sample.filters import REMOVED, stages
from cutaway.sample.settings import Sampling
from cutaway.sample.stopping import Reason
from cutaway.sample.table import Candidate, table
from cutaway.text.table import visible

TEXTS = 100  # of the tokens that a pickled step names, the likeliest of each text
CUTTING = ("top_k", "top_p", "min_p")  # filters that remove tokens; the others rescale logits


@dataclass(frozen=True, eq=False, repr=False)
class Step(Kept, Displayed):
    """One token of each text of a batch: the logits, the settings, the draw, the choice.

    index: 0 for the first new token. logits [B, V] as the model gave them; NaN for a text that was finished before and
    left the pass. ids [B] chosen; padding for a text that was finished before. u [B]: the draw, None where the highest
    logit was taken. ended: why each text is finished, as of this step. was_over [B]: texts that were finished before
    it. seen_ids and seen_mask [B, S]: what the repetition penalty reads, None without one. show: a token's text. text:
    the new text of each, where a tokenizer streams it. forced: the caller put the token there (`with_token`).
    """

    index: int
    logits: Float[Tensor, "B V"]
    settings: Sampling
    ids: Int[Tensor, "B"]
    u: Float[Tensor, "B"] | None
    ended: tuple[Reason | None, ...]
    was_over: Bool[Tensor, "B"]
    seen_ids: Int[Tensor, "B S"] | None = None
    seen_mask: Int[Tensor, "B S"] | None = None
    show: Callable[[int], str | None] | None = field(default=None, repr=False)
    text: tuple[str, ...] = ()
    forced: bool = False

    def __getstate__(self) -> dict[str, Any]:
        """Without the tokenizer: the texts of the likeliest tokens and of the chosen ones stay."""
        return super().__getstate__() | {"show": self._known_texts()}

    def __repr__(self) -> str:
        shown = ", ".join(f"{id} {visible(self.text_of(id) or '')}" for id in self.ids[:4].tolist())
        more = f" and {len(self.ids) - 4} more texts" if len(self.ids) > 4 else ""
        return f"<Step {self.index}: {shown}{more} ({self.settings}); print it for how they were chosen>"

    def __str__(self) -> str:
        return "\n\n".join(self.table(row=row) for row in range(len(self.ids)))

    def stages(self) -> list[tuple[str, Float[Tensor, "B V"]]]:
        """Logits after each active filter, in order, as (name, logits); the first is the model's own in float32."""
        return stages(self.logits, self.settings, self.seen_ids, self.seen_mask)

    @property
    def probs(self) -> Float[Tensor, "B V"]:
        """The probabilities of the draw: softmax of the filtered logits, float32."""
        return self.stages()[-1][1].softmax(-1)

    def with_token(self, token: int) -> "Step":
        """The same step of one text with another token in place of the one that was chosen: forced, so without a u.

        Raises BadArgument for an id that is none of the logits', and for a step of several texts.
        """
        self.require_one_text()
        width = self.logits.shape[-1]
        chosen = require_whole("token", token, 0, "pass an id of the vocabulary")
        if chosen >= width:
            raise BadArgument(f"token={chosen}", f"an id below {width}", "pass an id of the vocabulary")
        return replace(self, ids=torch.full_like(self.ids, chosen), u=None, forced=True)

    def require_one_text(self) -> None:
        """Raises BadArgument for a step of several texts."""
        if len(self.ids) != 1:
            raise BadArgument(f"a step of {len(self.ids)} texts", "a step of one text", "generate that text alone")

    def top(self, k: SupportsIndex = 10, row: SupportsIndex = 0) -> list[Candidate]:
        """The k most probable tokens of a text in the order of the draw, then the chosen one if it is not among them.

        Removed tokens follow those that stayed, in the same order. Raises BadArgument for k below 1 or a row that is
        not in the batch.
        """
        return self._candidates(0, k, row, chosen=True)

    def window(self, first: int, count: int, row: SupportsIndex = 0) -> list[Candidate]:
        """The candidates of ranks first to first + count in the order of the draw. Raises as `top`."""
        first = require_whole("first", first, 0, "pass for example first=0")
        return self._candidates(first, count, row, chosen=False)

    def interval(self, row: SupportsIndex = 0) -> tuple[float, float]:
        """The chosen token's interval of cumulative probability, [start, end): see choose.py."""
        _, row = _checked(1, row, len(self.ended))
        return interval(self._row_stages(row)[-1][1].softmax(-1), int(self.ids[row]))

    def table(self, k: SupportsIndex = 10, row: SupportsIndex = 0) -> str:
        """The choice as plain text, at most 80 columns: the top k tokens, what removed which, and the draw."""
        k, row = _checked(k, row, len(self.ended))
        title = f"step {self.index}, text {row}"
        if bool(self.was_over[row]):
            return f"{title}: over before ({self.ended[row]}); it carries padding"
        return table(f"{title}: {self.settings}", self.top(k, row), self._choice(row))

    def as_data(self, k: SupportsIndex = 10) -> dict[str, object]:
        """The step as JSON: for each text the choice, the draw and the top k candidates. A logit of -inf is None."""
        texts = [self._text_data(k, row) for row in range(len(self.ended))]
        return {"index": self.index, "settings": self.settings.as_data(), "texts": texts}

    def text_of(self, token: int) -> str | None:
        """A token's text, None without a tokenizer."""
        return None if self.show is None else self.show(token)

    def _known_texts(self) -> "KnownTexts | None":
        if self.show is None or isinstance(self.show, KnownTexts):
            return self.show
        likeliest = self.logits.topk(min(TEXTS, self.logits.shape[-1])).indices.flatten().tolist()
        return KnownTexts({token: self.show(token) for token in {*likeliest, *self.ids.tolist()}})

    def _choice(self, row: int) -> str:
        """The choice as a sentence: "u = 0.4137 falls in [0.3951, 0.4822): token 262 ␣the"."""
        token, reason = int(self.ids[row]), self.ended[row]
        text = self.text_of(token)
        name = f"token {token}" + ("" if text is None else f" {visible(text)}")
        over = f"; the text is over: {reason}" if reason else ""
        if self.forced:
            return f"put there by the caller: {name}{over}"
        if self.u is None:
            return f"the highest logit: {name}{over}"
        start, end = self.interval(row)
        return f"u = {float(self.u[row]):.4f} falls in [{start:.4f}, {end:.4f}): {name}{over}"

    def _row_stages(self, row: int) -> list[tuple[str, Tensor]]:
        if len(self.ended) == 1:
            return [(name, logits[0]) for name, logits in self.stages()]
        one = slice(row, row + 1)
        ids = None if self.seen_ids is None else self.seen_ids[one]
        mask = None if self.seen_mask is None else self.seen_mask[one]
        return [(name, logits[0]) for name, logits in stages(self.logits[one], self.settings, ids, mask)]

    def _candidates(self, first: int, count: SupportsIndex, row: SupportsIndex, chosen: bool) -> list[Candidate]:
        """chosen: whether the chosen token follows them where it is not among them."""
        count, row = _checked(count, row, len(self.ended))
        done, token = self._row_stages(row), int(self.ids[row])
        scaled_V = next(logits for name, logits in reversed(done) if name not in CUTTING)
        probs = [logits_V.softmax(-1) for logits_V in (done[0][1], scaled_V, done[-1][1])]
        ranks = {id: rank for rank, id in enumerate(_first(scaled_V, first + count)) if rank >= first}
        if chosen and token not in ranks:
            ranks[token] = _rank(scaled_V, token)
        return [self._candidate(id, rank, done, probs, token) for id, rank in ranks.items()]

    def _candidate(
        self, token: int, rank: int, done: list[tuple[str, Tensor]], probs: list[Tensor], chosen: int
    ) -> Candidate:
        removed_by = next((name for name, logits in done if logits[token] == REMOVED), None)
        logit, model, scaled, final = (float(values[token]) for values in (done[0][1], *probs))
        text, mark = self.text_of(token), token == chosen
        return Candidate(token, text, rank, logit, model, scaled, removed_by, final, mark)

    def _text_data(self, k: SupportsIndex, row: int) -> dict[str, object]:
        token = int(self.ids[row])
        data: dict[str, object] = {"id": token, "text": self.text_of(token), "ended": self.ended[row]}
        if bool(self.was_over[row]):
            return data | {"was_over": True, "u": None, "interval": None, "top": []}
        u = None if self.u is None else float(self.u[row])
        top = [_candidate_data(candidate) for candidate in self.top(k, row)]
        said = {"was_over": False, "u": u, "interval": list(self.interval(row)), "top": top}
        return data | said | ({"forced": True} if self.forced else {})


def forked(steps: Sequence[Step], index: int, token: int) -> list[Step]:
    """The first steps of one text with another token at `index`, which ends them; its own token changes nothing.

    Raises as `with_token`.
    """
    last = steps[index]
    last.require_one_text()
    return [*steps[:index], last if int(last.ids[0]) == token else last.with_token(token)]


class KnownTexts(dict[int, str | None]):
    """The texts of some tokens, where a step was kept without its tokenizer."""

    def __call__(self, token: int) -> str | None:
        return self.get(token)


def _first(scaled_V: Tensor, k: int) -> list[int]:
    """The k highest ids by logit, equal ones by id; sorts only those that may be among them."""
    least = scaled_V.topk(min(k, len(scaled_V))).values[-1]
    ids_N = (scaled_V >= least).nonzero()[:, 0]
    return ids_N[scaled_V[ids_N].sort(descending=True, stable=True).indices][:k].tolist()


def _rank(scaled_V: Tensor, token: int) -> int:
    """How many tokens precede this one in the same order."""
    higher, equal = scaled_V > scaled_V[token], scaled_V == scaled_V[token]
    return int(higher.sum()) + int(equal[:token].sum())


def _candidate_data(candidate: Candidate) -> dict[str, object]:
    return {name: None if value == -math.inf else value for name, value in vars(candidate).items()}


def _checked(k: Any, row: Any, batch: int) -> tuple[int, int]:
    candidates, text = whole(k), whole(row)
    if candidates is None or candidates < 1:
        raise BadArgument(f"k={k!r}", "at least 1 candidate", "pass for example k=10")
    if text is None or not 0 <= text < batch:
        raise BadArgument(f"row={row!r}", f"a text of this step, 0 to {batch - 1}", "pass another row")
    return candidates, text
