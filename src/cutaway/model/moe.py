"""A mixture of experts in the MLP's place: a router scores experts for each token, and only the chosen are computed.

B texts, T positions, D model width, X experts, F an expert's width, N tokens that chose one expert. It knows no model
family, and not what an expert is: it makes them by the class that it is given, and calls them.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.ground.config import DecoderConfig
from cutaway.model.ops import Ops, torch_ops
from cutaway.model.tap import Tap, untapped

Where = tuple[Tensor, Tensor]  # text and position of each token that chose one expert


class Router(nn.Linear):
    """Each expert's logit for a token; never in 8 bits: a small difference chooses another expert."""

    ops: Ops = torch_ops

    def forward(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T X"]:  # pyright: ignore
        return self.ops.product(x_BTD, self.weight, self.bias)


class MoE(nn.Module):
    """The sum of the chosen experts' outputs, each times its score (Shazeer et al. 2017, arXiv 1701.06538).

    expert: the class of an expert, a gated MLP that is called with [1, N, D] and a tap. An edit of the router's logits
    changes which experts are chosen; one of the scores reweighs them, and computes each whose score is not 0.
    """

    def __init__(self, config: DecoderConfig, layer: int, expert: Callable[[DecoderConfig, int], nn.Module]) -> None:
        super().__init__()
        self.site = f"blocks.{layer}.mlp."
        self.chosen, self.normalized, self.width = config.experts_per_token, config.normalized_scores, config.d_mlp
        self.router = Router(config.d_model, config.n_experts, bias=config.router_bias)
        self.experts = nn.ModuleList(expert(config, layer) for _ in range(config.n_experts))

    def forward(self, x_BTD: Float[Tensor, "B T D"], tap: Tap) -> Float[Tensor, "B T D"]:
        scores_BTX = self.route(x_BTD, tap)
        watched = tap.wants(*(self.site + name for name in ("pre", "pre_linear", "post")))
        if not watched and scores_BTX.shape[:2].numel() == 1:
            return self.of_one_token(x_BTD, scores_BTX)
        asked_BTX = scores_BTX != 0
        asked = asked_BTX.flatten(0, 1).any(0).nonzero()[:, 0].tolist()
        where: dict[int, Where] = {i: asked_BTX[..., i].nonzero(as_tuple=True) for i in asked}  # pyright: ignore
        outputs = self.watched(x_BTD, where, tap) if watched else self.unwatched(x_BTD, where)
        sum_BTD = torch.zeros_like(x_BTD)
        for i, at in where.items():
            sum_BTD = sum_BTD.index_put(at, outputs[i] * scores_BTX[..., i][at][:, None], accumulate=True)
        return sum_BTD

    def route(self, x_BTD: Float[Tensor, "B T D"], tap: Tap) -> Float[Tensor, "B T X"]:
        """Each expert's score, 0 of those that are not chosen."""
        logits_BTX = tap(self.site + "router_logits", self.router(x_BTD))
        scores_BTX = self.router.ops.route(logits_BTX, self.chosen, self.normalized)
        return tap(self.site + "router_scores", scores_BTX)

    def of_one_token(self, x_11D: Tensor, scores_11X: Tensor) -> Float[Tensor, "1 1 D"]:
        """The same without gathering its row for each expert."""
        sum_11D = torch.zeros_like(x_11D)
        for i in scores_11X[0, 0].nonzero()[:, 0].tolist():
            sum_11D = sum_11D + self.experts[i](x_11D, untapped) * scores_11X[..., i, None]
        return sum_11D

    def unwatched(self, x_BTD: Tensor, where: dict[int, Where]) -> dict[int, Float[Tensor, "N D"]]:
        """What each expert gives for the tokens that chose it."""
        return {i: self.experts[i](x_BTD[at][None], untapped)[0] for i, at in where.items()}

    def watched(self, x_BTD: Tensor, where: dict[int, Where], tap: Tap) -> dict[int, Float[Tensor, "N D"]]:
        """The same by way of the experts' hidden values, [B, T, X, F], 0 where an expert was not chosen."""
        experts: Any = self.experts
        halves = {i: experts[i].up(x_BTD[at][None])[0] for i, at in where.items()}
        gates_BTXF, linears_BTXF = self.together(x_BTD, where, halves, 2 * self.width).chunk(2, -1)
        gates_BTXF, linears_BTXF = tap(self.site + "pre", gates_BTXF), tap(self.site + "pre_linear", linears_BTXF)
        gated = {i: (gates_BTXF[..., i, :][at][None], linears_BTXF[..., i, :][at][None]) for i, at in where.items()}
        posts = {
            i: experts[i].ops.gate_within(experts[i].clamp, experts[i].activation, *halves)[0]
            for i, halves in gated.items()
        }
        posts_BTXF = tap(self.site + "post", self.together(x_BTD, where, posts, self.width))
        return {i: experts[i].down(posts_BTXF[..., i, :][at][None])[0] for i, at in where.items()}

    def together(
        self, x_BTD: Tensor, where: dict[int, Where], parts: dict[int, Tensor], width: int
    ) -> Float[Tensor, "B T X N"]:
        """Values of the tokens that chose each expert, and 0 of the others; none may have chosen one."""
        whole = x_BTD.new_zeros(*x_BTD.shape[:2], len(self.experts), width)
        for i, at in where.items():
            whole = whole.index_put((*at, torch.full_like(at[0], i)), parts[i])
        return whole
