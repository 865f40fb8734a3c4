"""Perplexity: how surprised is the model by a text? exp of the mean negative log likelihood of its tokens.

Comparable under one protocol only, which the result states. Disjoint windows (stride = window): the first token of each
has no context and is not scored; the last window may be shorter. Sliding windows (stride < window): every window after
the first scores only its last `stride` tokens, which have at least window - stride tokens of context; this is
transformers' "perplexity of fixed-length models". Published figures for OPT on WikiText-2 use disjoint windows of 2048
tokens. This file knows ids and weights; it does not know text, nor whether a BOS is among the ids.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.ground.errors import BadArgument, BadText
from cutaway.ground.sites import block_exit
from cutaway.model.decoder import Decoder
from cutaway.model.tap import untapped
from cutaway.quant.explain import int8_layers
from cutaway.text.pieces import Tokens
from cutaway.trace.pass_recorder import Recorder
from cutaway.weights.progress import Progress

AT_ONCE = 128  # positions unembedded at a time: all logits of a window would take much memory


@dataclass(frozen=True)
class Perplexity:
    """The figure and its protocol. nll: mean negative log likelihood of a scored token, in nats."""

    perplexity: float
    nll: float
    tokens: int
    scored: int
    window: int
    stride: int
    windows: int


@dataclass(frozen=True)
class Span:
    """One pass: it reads the tokens [start, end) and scores those from index `scored` on."""

    start: int
    scored: int
    end: int


def perplexity(
    decoder: Decoder, ids: Int[Tensor, "T"], *, window: int, stride: int, progress: Progress | None = None
) -> Perplexity:
    """The perplexity of a long sequence of ids, read in windows of `window` tokens that begin every `stride` tokens.

    Raises BadArgument for a window beyond the context or a stride beyond the window, BadText for fewer than 2 tokens.
    """
    _check(decoder, ids, window, stride)
    losses, passes = [], list(spans(len(ids), window, stride))
    for span in passes:
        losses += window_losses(decoder, ids[span.start : span.end], span.scored - span.start)
        if progress:
            progress(span.end, len(ids), "scoring tokens")
    nll = math.fsum(losses) / len(losses)
    value = math.exp(nll) if nll < 700 else math.inf
    return Perplexity(value, nll, len(ids), len(losses), window, stride, len(passes))


def spans(count: int, window: int, stride: int) -> Iterator[Span]:
    """The passes over `count` tokens. A last window of one token has none to score and is left out."""
    scored_to = 0
    for start in range(0, count, stride):
        end = min(start + window, count)
        first = max(scored_to, start + 1)  # a window's first token has no context
        if first < end:
            yield Span(start, first, end)
        scored_to = end
        if end == count:
            return


def window_losses(decoder: Decoder, ids: Int[Tensor, "T"], scored: int) -> list[float]:
    """Negative log likelihoods, in nats, of the tokens from index `scored` (1 or later) on, given all before."""
    last_block = block_exit(decoder.config, decoder.config.n_layers - 1)
    recorder = Recorder([last_block])
    with torch.inference_mode():
        # unembeds one position only; the others are unembedded from the last block's output
        decoder(Tokens.from_ids(ids), tap=recorder, last=torch.zeros(1, dtype=torch.long, device=ids.device))
        stream_TD = recorder.parts[last_block][0][0]
        start = scored
        losses = []
        for logits_PV in _logits(decoder, stream_TD, scored):
            losses += _losses(logits_PV, ids[start : start + len(logits_PV)]).tolist()
            start += len(logits_PV)
        return losses


def _logits(decoder: Decoder, stream_TD: Tensor, scored: int) -> Iterator[Tensor]:
    """Logits that predict the tokens from index `scored` on, some positions at a time."""
    if _pools(decoder):
        yield decoder.unembed(stream_TD[None], untapped)[0, scored - 1 : -1]
        return
    for stream_PD in stream_TD[scored - 1 : -1].split(AT_ONCE):
        yield decoder.unembed(stream_PD[None], untapped)[0]


def _losses(logits_PV: Tensor, next_P: Tensor) -> Float[Tensor, "P"]:
    wide_PV = logits_PV.float()
    return wide_PV.logsumexp(-1) - wide_PV.gather(-1, next_P[:, None])[:, 0]


def _pools(decoder: Decoder) -> bool:
    """Whether the head's result depends on the other positions of a call: then it gets all of a window's at once."""
    return any(layer.mode == "llm-int8-pooled" for layer in int8_layers(decoder).values())


def _check(decoder: Decoder, ids: Tensor, window: int, stride: int) -> None:
    context = decoder.config.n_positions
    if not 2 <= window <= context:
        raise BadArgument(f"window={window}", f"2 to {context}, the model's context", "pass a window in between")
    if not 1 <= stride <= window:
        raise BadArgument(f"stride={stride}", f"1 to {window}, the window", "pass a stride in between")
    if len(ids) < 2:
        raise BadText(f"a text of {len(ids)} token", "at least 2, as the first is not scored", "use a longer text")
