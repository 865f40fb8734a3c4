"""Attention sinks: a learned score for each head, as of one more position, which has no value.

It knows scores; it does not know queries, keys, masks nor names of values.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Sinks(nn.Module):
    """The softmax of the scores and the sink, whose own share is dropped: a row sums to less than 1.

    Xiao et al. 2023, arXiv 2309.17453; learned in gpt-oss (OpenAI 2025, arXiv 2508.10925).
    """

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_heads))

    def forward(
        self, scores_BHTS: Tensor, softmax: Callable[[Tensor, Tensor], Tensor], heads: slice = slice(None)
    ) -> Float[Tensor, "B H T S"]:
        """The pattern. heads: those whose scores are given."""
        return softmax(scores_BHTS, self.weight[heads])
