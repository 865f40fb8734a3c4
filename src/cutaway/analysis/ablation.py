"""Which heads does the model need here? Each head's z set to zero, or to its mean, and what the answer loses.

Zero ablation also removes what a head adds on every text; mean ablation over a reference keeps it. Trust it for the
text and the metric that were chosen: a head that other heads replace shows no loss. Source: Michel et al. 2019, "Are
Sixteen Heads Really Better than One?" (arXiv 1905.10650). Batched as in analysis/patching.py. This file knows values
and weights; it does not know text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.analysis.many import Average, alone, average
from cutaway.analysis.metric import Metric
from cutaway.analysis.patching import AT_ONCE, BatchedPatch, chunks, last_logits
from cutaway.ground.errors import BadArgument
from cutaway.model.decoder import Decoder
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run
from cutaway.trace.trace import Trace


@dataclass(frozen=True)
class Ablation:
    """What the metric changes by without each head, [layers, heads], and what it is with all; over the texts."""

    change: Average
    unablated: Average


def ablate(decoder: Decoder, tokens: Tokens, metrics: Sequence[Metric], reference: Trace | None = None) -> Ablation:
    """`head_importance` of each text, averaged. metrics: one for each text."""
    texts = alone(tokens)
    changes = [head_importance(decoder, text, of, reference).cpu() for text, of in zip(texts, metrics, strict=True)]
    ends = [
        of(run(decoder, text, "logits", positions=-1)["logits"][:, 0])[0].cpu()
        for text, of in zip(texts, metrics, strict=True)
    ]
    return Ablation(average(changes), average(ends))


def head_importance(
    decoder: Decoder, tokens: Tokens, metric: Metric, reference: Trace | None = None, at_once: int = AT_ONCE
) -> Float[Tensor, "L H"]:
    """The metric without each head minus the metric with all: [layers, heads].

    reference: a trace of "blocks.*.attn.z" whose mean over its real positions replaces a head's z; None: zero.
    Raises BadArgument for more than one text.
    """
    if len(tokens.ids) != 1 or tokens.padded:
        raise BadArgument(f"{len(tokens.ids)} texts", "one text, not padded", "ask of each text alone")
    base = run(decoder, tokens, ["blocks.*.resid_pre", "logits"])
    unablated = metric(base["logits"][:, -1])
    means = None if reference is None else _means(reference, tokens)
    rows = []
    for layer in range(decoder.config.n_layers):
        targets = [(None, head) for head in range(decoder.config.n_heads)]
        for some in chunks(targets, at_once):
            tap = BatchedPatch(layer, "attn.z", some, means)
            rows.append(metric(last_logits(decoder, tokens, base, layer, tap, len(some))))
    return (torch.cat(rows) - unablated).reshape(decoder.config.n_layers, decoder.config.n_heads)


def _means(reference: Trace, tokens: Tokens) -> Trace:
    """The reference's means as a trace of these tokens: the same at every position."""
    real_BT = reference.tokens.mask.bool()
    sites = [site for site in reference if site.endswith("attn.z")]
    length = tokens.ids.shape[1]
    values = {site: reference[site][real_BT].mean(0).expand(1, length, -1, -1) for site in sites}
    return Trace(values, tokens, reference.config)
