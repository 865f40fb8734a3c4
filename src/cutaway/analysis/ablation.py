"""Which heads does the model need here? Each head's z set to zero, or to its mean, and what the answer loses.

Zero takes away everything, the part too that a head adds on every text; the mean over a reference leaves that. Trust
it for the text and the measure that were chosen: a head whose work others take over shows no loss. Source: Michel et
al. 2019, "Are Sixteen Heads Really Better than One?" (arXiv 1905.10650). Batched as analysis/patching.py is. This file
knows values and weights; it does not know text.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.analysis.patching import AT_ONCE, Metric, Rows, chunks, from_block
from cutaway.ground.errors import BadArgument
from cutaway.model.decoder import Decoder
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run
from cutaway.trace.trace import Trace


def head_importance(
    decoder: Decoder, tokens: Tokens, metric: Metric, reference: Trace | None = None, at_once: int = AT_ONCE
) -> Float[Tensor, "L H"]:
    """The metric without each head minus the metric with all: [layers, heads].

    reference: a trace of "blocks.*.attn.z" whose mean over its real positions takes a head's place; None takes zero.
    Raises BadArgument for more than one text.
    """
    if len(tokens.ids) != 1 or tokens.padded:
        raise BadArgument(f"{len(tokens.ids)} texts", "one text, not padded", "ask of each text alone")
    base = run(decoder, tokens, ["blocks.*.resid_pre", "logits"])
    whole = metric(base["logits"][:, -1])
    means = None if reference is None else _means(reference, tokens)
    rows = []
    for layer in range(decoder.config.n_layers):
        places = [(None, head) for head in range(decoder.config.n_heads)]
        for some in chunks(places, at_once):
            rows.append(metric(from_block(decoder, tokens, base, layer, Rows(layer, "heads", some, means), len(some))))
    return (torch.cat(rows) - whole).reshape(decoder.config.n_layers, decoder.config.n_heads)


def _means(reference: Trace, tokens: Tokens) -> Trace:
    """The reference's means as if they were a trace of these tokens: the same at every position."""
    real_BT = reference.tokens.mask.bool()
    sites = [site for site in reference if site.endswith("attn.z")]
    length = tokens.ids.shape[1]
    values = {site: reference[site][real_BT].mean(0).expand(1, length, -1, -1) for site in sites}
    return Trace(values, tokens, reference.config)
