"""What does each head attend to? Scores of every head's pattern: previous token, same token, induction, first, entropy.

On random tokens repeated once, only the pattern matters: a head that attends to the previous position scores 1 as a
previous-token head, one that attends to the token after the current token's first occurrence scores 1 as an induction
head. Trust the scores as statements about patterns, not about the head's output; on a real text they also depend on the
text. Source: Olsson et al. 2022, "In-context Learning and Induction Heads" (arXiv 2209.11895); the scores are
TransformerLens's. This file knows patterns; it does not know text.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.analysis.many import average, batches
from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument, BadText
from cutaway.model.decoder import Decoder
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run
from cutaway.trace.trace import Trace

Scores = Float[Tensor, "L H"]


@dataclass(frozen=True)
class HeadScores:
    """Scores of every head, [layers, heads], by the names that score_heads explains; spread: over several texts."""

    by_name: dict[str, Scores]
    spread: dict[str, Scores] | None = None

    def top(self, name: str, count: int = 5) -> list[tuple[int, int, float]]:
        """The highest: (layer, head, score)."""
        scores_LH = self.by_name[name]
        best = scores_LH.flatten().topk(min(count, scores_LH.numel()))
        heads = scores_LH.shape[1]
        return [(i // heads, i % heads, s) for i, s in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


def pattern_sites(config: DecoderConfig) -> list[str]:
    """The sites that a trace must hold."""
    return [f"blocks.{layer}.attn.pattern" for layer in range(config.n_layers)]


def repeated_tokens(config: DecoderConfig, length: int = 50, texts: int = 4, seed: int = 0) -> Tokens:
    """Random tokens repeated once, [texts, 2 · length]; no BOS. Raises BadArgument where the context is too short."""
    if not 2 <= length <= config.n_positions // 2:
        expected = f"2 to {config.n_positions // 2}, half the model's context"
        raise BadArgument(f"length={length}", expected, "pass a length in between")
    random = torch.Generator().manual_seed(seed)
    once_BT = torch.randint(0, config.vocab_size, (texts, length), generator=random, device="cpu")
    return Tokens.from_ids(once_BT.repeat(1, 2))


def heads(decoder: Decoder, tokens: Tokens) -> HeadScores:
    """`score_heads` of each text by itself, averaged. Raises BadText for a text of one token, which has no second."""
    sites, scores = pattern_sites(decoder.config), []
    if int(tokens.lengths.min()) < 2:
        raise BadText("a text of 1 token", "at least 2, as scores begin at the second position", "use a longer text")
    for batch in batches(tokens):
        trace = run(decoder, batch, sites)
        for row, (end, length) in enumerate(zip((batch.last + 1).tolist(), batch.lengths.tolist(), strict=True)):
            own = slice(end - length, end)
            patterns = {site: trace[site][row : row + 1, :, own, own] for site in sites}
            text = Trace(patterns, Tokens.from_ids(batch.ids[row, own]), trace.config)
            scores.append({name: score.cpu() for name, score in score_heads(text).by_name.items()})
    shared = [name for name in scores[0] if all(name in each for each in scores)]
    of = {name: average([each[name] for each in scores]) for name in shared}
    spread = {name: each.spread for name, each in of.items() if each.spread is not None}
    return HeadScores({name: each.mean for name, each in of.items()}, spread or None)


def score_heads(trace: Trace) -> HeadScores:
    """Previous, duplicate, first, self and entropy on any text; induction too where the text is one sequence twice.

    previous, self, first: mean weight on the previous position, the position itself, the first position. duplicate: on
    earlier positions of the same token. induction: see induction_scores. entropy: of each row, in nats. Means over the
    real positions from the second on, over all texts.
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
    """Mean weight, in the second half, on the position after the token's first occurrence: T attends to T-(n-1)."""

    def score(pattern_BHTS: Tensor) -> Tensor:
        return pattern_BHTS.diagonal(-(length - 1), dim1=-2, dim2=-1)[..., 1:].mean((0, 2))

    return torch.stack([score(trace[site]) for site in pattern_sites(trace.config)])


def _mean(trace: Trace, of: Callable[[Tensor], Tensor], mask_BT: Tensor) -> Scores:
    """The mean over the real positions from each text's second on; of: a pattern → [B, H, T]."""
    second_BT = mask_BT & (mask_BT.cumsum(-1) > 1)
    rows = [of(trace[site]).transpose(1, 2)[second_BT].mean(0) for site in pattern_sites(trace.config)]
    return torch.stack(rows)


def _diagonal(pattern_BHTS: Tensor, back: int) -> Float[Tensor, "B H T"]:
    """Weight on the position `back` earlier; 0 where there is none."""
    weight = pattern_BHTS.diagonal(-back, dim1=-2, dim2=-1)
    return torch.cat((weight.new_zeros(*weight.shape[:-1], back), weight), -1)


def _first(pattern_BHTS: Tensor, mask_BT: Tensor) -> Float[Tensor, "B H T"]:
    """Weight on each text's first real position."""
    first_B = mask_BT.int().argmax(-1)
    return pattern_BHTS[torch.arange(len(first_B), device=first_B.device), :, :, first_B]


def _on_same(pattern_BHTS: Tensor, ids_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B H T"]:
    """Weight on earlier positions of the same token."""
    same_BTS = (ids_BT[:, :, None] == ids_BT[:, None]).tril(-1)
    return (pattern_BHTS * same_BTS[:, None]).sum(-1)


def _entropy(pattern_BHTS: Tensor) -> Float[Tensor, "B H T"]:
    return -torch.special.xlogy(pattern_BHTS, pattern_BHTS).sum(-1)
