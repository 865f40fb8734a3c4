"""A measure of the answer: the logit of one token, or of one minus another, for each row of a batch.

It does not know which text a row is, nor where its logits come from.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Metric = Callable[[Float[Tensor, "N V"]], Float[Tensor, "N"]]  # logits at the last position → one number for each row


def logit_difference(answer: int, wrong: int) -> Metric:
    """The answer's logit minus the wrong one's."""
    return lambda logits_NV: logits_NV[:, answer] - logits_NV[:, wrong]


def logit_of(answer: int) -> Metric:
    """The answer's logit."""
    return lambda logits_NV: logits_NV[:, answer]


def metric_of(answer: int, against: int | None = None) -> Metric:
    """The answer's logit, minus that of `against` where it is given."""
    return logit_of(answer) if against is None else logit_difference(answer, against)


def row_metric(answers: Sequence[int], against: Sequence[int] | None = None) -> Metric:
    """The same where each row has an answer of its own."""

    def measure(logits_NV: Tensor) -> Tensor:
        rows_N = torch.arange(len(logits_NV), device=logits_NV.device)
        answer_N = logits_NV[rows_N, torch.tensor(answers, device=logits_NV.device)]
        if against is None:
            return answer_N
        return answer_N - logits_NV[rows_N, torch.tensor(against, device=logits_NV.device)]

    return measure
