"""What does each head attend to? Scores of every head's pattern: previous token, same token, induction, first, entropy.

On random tokens repeated once, only the pattern matters: a head that attends to the previous position scores 1 as a
previous-token head, one that attends to the token after the current token's first occurrence scores 1 as an induction
head. Trust the scores as statements about patterns, not about the head's output; on a real text they also depend on the
text. Source: Olsson et al. 2022, "In-context Learning and Induction Heads" (arXiv 2209.11895); the scores are
TransformerLens's. This file knows patterns; it does not know text.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.analysis.many import average, batches
from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument, BadText
from cutaway.model.decoder import Decoder
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run
from cutaway.trace.trace import Trace

Scores = Float[Tensor, "L H"]
ROWS = 128  # of a pattern, read at a time
FEW = 40  # one entry of so many is gathered faster than a product with all is computed


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
    ids_BT, second_BT = trace.tokens.ids, second_on(trace.tokens)
    rows = RowScores(trace.tokens)
    means = [
        {name: row_BHT.transpose(1, 2)[second_BT].mean(0) for name, row_BHT in rows(trace[site]).items()}
        for site in pattern_sites(trace.config)
    ]
    scores = {name: torch.stack([mean[name] for mean in means]) for name in means[0]}
    half = ids_BT.shape[1] // 2
    if ids_BT.shape[1] == 2 * half and half > 1 and torch.equal(ids_BT[:, :half], ids_BT[:, half:]):
        scores["induction"] = induction_scores(trace, half)
    return HeadScores(scores)


def induction_scores(trace: Trace, length: int) -> Scores:
    """Mean weight, in the second half, on the position after the token's first occurrence: T attends to T-(n-1)."""

    def score(pattern_BHTS: Tensor) -> Tensor:
        return pattern_BHTS.diagonal(-(length - 1), dim1=-2, dim2=-1)[..., 1:].mean((0, 2))

    return torch.stack([score(trace[site]) for site in pattern_sites(trace.config)])


def second_on(tokens: Tokens) -> Bool[Tensor, "B T"]:
    """The positions that scores are means over: each text's real ones from the second on."""
    mask_BT = tokens.mask.bool()
    return mask_BT & (mask_BT.cumsum(-1) > 1)


class RowScores:
    """What each row of a block's pattern [B, H, T, S] gives the scores of `score_heads`, by name: [B, H, T]."""

    def __init__(self, tokens: Tokens) -> None:
        self.mask_BT, self.same = tokens.mask.bool(), _Weight(earlier_same(tokens))

    def __call__(self, pattern_BHTS: Float[Tensor, "B H T S"]) -> dict[str, Float[Tensor, "B H T"]]:
        return {
            "previous": _diagonal(pattern_BHTS, 1),
            "self": _diagonal(pattern_BHTS, 0),
            "first": _first(pattern_BHTS, self.mask_BT),
            "duplicate": self.same(pattern_BHTS),
            "entropy": _entropy(pattern_BHTS),
        }


class Roles:
    """The scores of every head from patterns that are seen once, block after block, and not kept (trace/view.py).

    by_name() has the means of `score_heads`, of each text: [L, B, H], and induction on any text: the mean weight, over
    the positions whose token has occurred before, on the positions right after those occurrences. On tokens repeated
    once that is `induction_scores`. NaN where a text has no such position, or no second one.
    """

    def __init__(self, tokens: Tokens) -> None:
        same_BTS = earlier_same(tokens)
        after_BTS = torch.cat((torch.zeros_like(same_BTS[..., :1]), same_BTS[..., :-1]), -1).tril(-1)
        self.rows, self.after, self.second_BT = RowScores(tokens), _Weight(after_BTS), second_on(tokens)
        self.repeated_BT = after_BTS.any(-1)
        self.blocks: list[dict[str, Float[Tensor, "B H"]]] = []

    def __call__(self, layer: int, pattern_BHTS: Float[Tensor, "B H T S"]) -> None:
        means = {name: _mean(row_BHT, self.second_BT) for name, row_BHT in self.rows(pattern_BHTS).items()}
        self.blocks.append(means | {"induction": _mean(self.after(pattern_BHTS), self.repeated_BT)})

    def by_name(self) -> dict[str, Float[Tensor, "L B H"]]:
        return {name: torch.stack([block[name] for block in self.blocks]) for name in self.blocks[0]}


def earlier_same(tokens: Tokens) -> Bool[Tensor, "B T S"]:
    """Where a position's token stands at an earlier position too."""
    real_BTS = tokens.mask.bool()[:, :, None] & tokens.mask.bool()[:, None]
    return (tokens.ids[:, :, None] == tokens.ids[:, None]).tril(-1) & real_BTS


def _mean(row_BHT: Tensor, over_BT: Tensor) -> Float[Tensor, "B H"]:
    """Each text's mean over these positions; NaN where there is none."""
    return torch.stack([row_HT[:, over_T].mean(-1) for row_HT, over_T in zip(row_BHT, over_BT, strict=True)])


def _diagonal(pattern_BHTS: Tensor, back: int) -> Float[Tensor, "B H T"]:
    """Weight on the position `back` earlier; 0 where there is none."""
    weight = pattern_BHTS.diagonal(-back, dim1=-2, dim2=-1)
    return torch.cat((weight.new_zeros(*weight.shape[:-1], back), weight), -1)


def _first(pattern_BHTS: Tensor, mask_BT: Tensor) -> Float[Tensor, "B H T"]:
    """Weight on each text's first real position."""
    first_B = mask_BT.int().argmax(-1)
    return pattern_BHTS[torch.arange(len(first_B), device=first_B.device), :, :, first_B]


class _Weight:
    """Each row's weight on the chosen sources, [B, H, T]: gathered where they are few, as in most texts."""

    def __init__(self, chosen_BTS: Bool[Tensor, "B T S"]) -> None:
        self.chosen_BTS, few = chosen_BTS, int(chosen_BTS.sum()) * FEW <= chosen_BTS.numel()
        self.pairs = chosen_BTS.nonzero(as_tuple=True) if few else None

    def __call__(self, pattern_BHTS: Float[Tensor, "B H T S"]) -> Float[Tensor, "B H T"]:
        if self.pairs is None:
            return torch.einsum("bhts,bts->bht", pattern_BHTS, self.chosen_BTS.to(pattern_BHTS.dtype))
        b, h, t, _ = pattern_BHTS.shape
        text, position, source = self.pairs
        weight_NH = pattern_BHTS.permute(0, 2, 3, 1)[text, position, source]
        sums_PH = weight_NH.new_zeros(b * t, h).index_add(0, text * t + position, weight_NH)
        return sums_PH.unflatten(0, (b, t)).transpose(1, 2)


def _entropy(pattern_BHTS: Tensor) -> Float[Tensor, "B H T"]:
    """Some rows at a time, and no column after the last of them: a pattern's upper half is all 0."""
    rows = [pattern_BHTS[:, :, a : a + ROWS, : a + ROWS] for a in range(0, pattern_BHTS.shape[2], ROWS)]
    return torch.cat([-torch.special.xlogy(part, part).sum(-1) for part in rows], -1)
