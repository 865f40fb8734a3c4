"""What does each head look at? Scores of every head's pattern: previous token, same token, induction, first, entropy.

On a text of random tokens said twice a head can be nothing but what its pattern does: one that looks one place back
scores 1 as a previous-token head, one that finds the token after the last time this one stood scores 1 as an induction
head. Trust the scores as statements about patterns, not about what the head writes; on a real text they mix what the
text offers with what the head does. Source: Olsson et al. 2022, "In-context Learning and Induction Heads" (arXiv
2209.11895); the scores are TransformerLens's. This file knows patterns; it does not know text.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument
from cutaway.text.pieces import Tokens
from cutaway.trace.trace import Trace

Scores = Float[Tensor, "L H"]


@dataclass(frozen=True)
class HeadScores:
    """Scores of every head, [layers, heads], by name. `names` says what each is."""

    by_name: dict[str, Scores]

    def top(self, name: str, count: int = 5) -> list[tuple[int, int, float]]:
        """The highest: (layer, head, score)."""
        scores_LH = self.by_name[name]
        best = scores_LH.flatten().topk(min(count, scores_LH.numel()))
        heads = scores_LH.shape[1]
        return [(i // heads, i % heads, s) for i, s in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


def pattern_sites(config: DecoderConfig) -> list[str]:
    """What a trace must hold."""
    return [f"blocks.{layer}.attn.pattern" for layer in range(config.n_layers)]


def repeated_tokens(config: DecoderConfig, length: int = 50, texts: int = 4, seed: int = 0) -> Tokens:
    """Random tokens said twice, [texts, 2 · length]; no BOS. Raises BadArgument where the context is too short."""
    if not 2 <= length <= config.n_positions // 2:
        expected = f"2 to {config.n_positions // 2}, half the model's context"
        raise BadArgument(f"length={length}", expected, "pass a length in between")
    random = torch.Generator().manual_seed(seed)
    once_BT = torch.randint(0, config.vocab_size, (texts, length), generator=random, device="cpu")
    return Tokens.from_ids(once_BT.repeat(1, 2))


def score_heads(trace: Trace) -> HeadScores:
    """Previous, duplicate, first, self and entropy on any text; induction too where the text says its tokens twice.

    previous, self, first: mean weight on the place before, on itself, on the first place. duplicate: on earlier places
    of the same token. induction: on the place after an earlier one of the same token, of the second time. entropy: of
    each row, in nats. Means over the real positions from the second on, all texts together.
    """
    ids_BT, mask_BT = trace.tokens.ids, trace.tokens.mask.bool()
    scores = {
        "previous": _mean(trace, lambda p: _diagonal(p, 1), mask_BT),
        "self": _mean(trace, lambda p: _diagonal(p, 0), mask_BT),
        "first": _mean(trace, lambda p: _first(p, mask_BT), mask_BT),
        "duplicate": _mean(trace, lambda p: _on_same(p, ids_BT), mask_BT),
        "entropy": _mean(trace, _entropy, mask_BT),
    }
    half = ids_BT.shape[1] // 2
    if ids_BT.shape[1] == 2 * half and half > 1 and torch.equal(ids_BT[:, :half], ids_BT[:, half:]):
        scores["induction"] = induction_scores(trace, half)
    return HeadScores(scores)


def induction_scores(trace: Trace, length: int) -> Scores:
    """Mean weight from each place of the second time on the place after the same token's first: T looks at T-(n-1)."""

    def score(pattern_BHTS: Tensor) -> Tensor:
        return pattern_BHTS.diagonal(-(length - 1), dim1=-2, dim2=-1)[..., 1:].mean((0, 2))

    return torch.stack([score(trace[site]) for site in pattern_sites(trace.config)])


def _mean(trace: Trace, of: Callable[[Tensor], Tensor], mask_BT: Tensor) -> Scores:
    """Over the real positions that have one before them, of [B, H, T] made of each block's pattern."""
    second_BT = mask_BT & (mask_BT.cumsum(-1) > 1)
    rows = [of(trace[site]).transpose(1, 2)[second_BT].mean(0) for site in pattern_sites(trace.config)]
    return torch.stack(rows)


def _diagonal(pattern_BHTS: Tensor, back: int) -> Float[Tensor, "B H T"]:
    """Weight on the place so many back; 0 where there is none."""
    there = pattern_BHTS.diagonal(-back, dim1=-2, dim2=-1)
    return torch.cat((there.new_zeros(*there.shape[:-1], back), there), -1)


def _first(pattern_BHTS: Tensor, mask_BT: Tensor) -> Float[Tensor, "B H T"]:
    """Weight on each text's first real place."""
    first_B = mask_BT.int().argmax(-1)
    return pattern_BHTS[torch.arange(len(first_B), device=first_B.device), :, :, first_B]


def _on_same(pattern_BHTS: Tensor, ids_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B H T"]:
    """Weight on earlier places that hold the same token."""
    same_BTS = (ids_BT[:, :, None] == ids_BT[:, None]).tril(-1)
    return (pattern_BHTS * same_BTS[:, None]).sum(-1)


def _entropy(pattern_BHTS: Tensor) -> Float[Tensor, "B H T"]:
    return -torch.special.xlogy(pattern_BHTS, pattern_BHTS).sum(-1)
