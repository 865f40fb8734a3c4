"""One choice over the whole vocabulary: what each filter removed, the curve of all probabilities, and another draw.

Everything comes from a Step's logits. It does not know the decoder, nor how a curve is drawn.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.quant.threads import one_thread
from cutaway.sample.choose import dice, draw, greedy
from cutaway.sample.filters import REMOVED, stages
from cutaway.sample.settings import Sampling
from cutaway.sample.step import Step

POINTS = 512  # of a curve, at most


@dataclass(frozen=True)
class Filtered:
    """What one filter did. setting: its value. removed: tokens, and removed_prob their probability before it.

    left: tokens that have any probability after it; kept_prob: how much of the model's own probability they hold.
    """

    name: str
    setting: float | int | None
    removed: int
    removed_prob: float
    left: int
    kept_prob: float


@dataclass(frozen=True)
class Curve:
    """A distribution over its tokens in descending order, at some of their ranks (all the first, then ever fewer).

    rank: from 1. logprob: natural logarithm of the token's probability. cumulative: of it and all before it, exact.
    """

    rank: list[int]
    logprob: list[float]
    cumulative: list[float]


@dataclass(frozen=True, eq=False, repr=False)
class Choice(Step):
    """A step that keeps its stages: several times V numbers, where a Step computes them when they are wanted."""

    done: tuple[tuple[str, Tensor], ...] = ()

    def stages(self) -> list[tuple[str, Tensor]]:
        """As kept."""
        return list(self.done)


def filtered(step: Step, row: int = 0) -> list[Filtered]:
    """The stages of one text's choice, the model's own logits first."""
    done = [(name, logits[row]) for name, logits in step.stages()]
    own_V, before_V, rows = done[0][1].double().softmax(-1), done[0][1], []
    for name, after_V in done:
        left_V, gone_V = after_V > REMOVED, (after_V == REMOVED) & (before_V > REMOVED)
        gone, left = int(gone_V.sum()), int(left_V.sum())
        removed = float(before_V.double().softmax(-1)[gone_V].sum()) if gone else 0.0
        rows.append(Filtered(name, getattr(step.settings, name, None), gone, removed, left, float(own_V[left_V].sum())))
        before_V = after_V
    return rows


def curve(logits_V: Float[Tensor, "V"], points: int = POINTS) -> Curve:
    """The distribution of some logits; tokens that were removed are not on it."""
    logits_N = logits_V[logits_V > REMOVED].cpu().numpy()
    sorted_N = torch.from_numpy(-np.sort(-logits_N)).double()  # numpy sorts a vocabulary in a third of torch's time
    count = len(sorted_N)
    spaced_P = torch.logspace(0, math.log10(count), points, dtype=torch.float64, device="cpu").round()
    rank_P = spaced_P.long().clamp(1, count).unique()
    logprob_P = sorted_N.log_softmax(-1)[rank_P - 1]
    # softmax, for torch's exp of as many numbers takes fifty times as long.
    cumulative_P = sorted_N.softmax(-1).cumsum(0)[rank_P - 1]
    return Curve(rank_P.tolist(), logprob_P.tolist(), cumulative_P.tolist())


def choice(
    logits_V: Float[Tensor, "V"],
    settings: Sampling,
    *,
    index: int = 0,
    seen: Int[Tensor, "S"] | None = None,
    show: Callable[[int], str | None] | None = None,
) -> Choice:
    """The Step that `generate` would make of these logits as its new token number `index`.

    seen: ids of the text so far, for the repetition penalty.
    """
    settings, logits_1V = settings.seeded(), logits_V[None]
    ids_1S = None if seen is None or settings.repetition_penalty == 1 else seen[None]
    mask_1S = None if ids_1S is None else torch.ones_like(ids_1S)
    done = stages(logits_1V, settings, ids_1S, mask_1S)
    final_1V = done[-1][1]
    u_1 = next(islice(dice(settings.seed or 0, 1), index, None)) if settings.do_sample else None
    ids_1 = greedy(final_1V) if u_1 is None else draw(final_1V.softmax(-1), u_1)
    over_1 = torch.zeros(1, dtype=torch.bool, device=logits_V.device)
    return Choice(index, logits_1V, settings, ids_1, u_1, (None,), over_1, ids_1S, mask_1S, show, done=tuple(done))


def as_data(step: Choice, first: int = 0, count: int = 40, spell: Callable[[int], str] = str) -> dict[str, Any]:
    """The whole choice of one text as JSON: stages, both curves, the candidates of ranks first to first + count in the
    order of the draw, and the draw."""
    done = step.stages()
    token = int(step.ids[0])
    candidates = [
        {"id": each.id, "text": spell(each.id), "rank": each.rank, "logit": each.logit,
         "model": each.prob_model, "scaled": each.prob_scaled, "final": each.prob, "removed_by": each.removed_by}
        for each in step.window(first, count)
    ]  # fmt: skip
    fell = {}
    if step.u is not None:
        start, end = step.interval()
        fell = {"u": float(step.u[0]), "start": start, "end": end}
    own = curve(done[0][1][0])
    return {
        "stages": [vars(each) for each in filtered(step)],
        "curve": vars(own),
        "final_curve": vars(own if len(done) == 1 else curve(done[-1][1][0])),
        "candidates": candidates,
        "draw": fell | {"id": token, "text": spell(token), "seed": step.settings.seed},
        "vocab": step.logits.shape[-1],
    }


def summary(step: Step) -> tuple[float, float, int]:
    """Of one text's chosen token under the model's own logits: its probability, the entropy of all in nats, its rank
    from 0."""
    logits_V, token = step.logits[0].float(), int(step.ids[0])
    with one_thread(len(logits_V)):
        logprob_V = logits_V.double().log_softmax(-1)
        entropy = -(logprob_V.exp() * logprob_V).nan_to_num(0.0).sum()
        return float(logprob_V[token].exp()), float(entropy), int((logits_V > logits_V[token]).sum())
