"""What would move the answer? Gradients of a measure: by input token, and as a cheap estimate of every patch at once.

Gradient x input says how the measure would change if a token's embedding grew a little; attribution patching estimates
what patching each place would do, from one pass and one backward: (clean - corrupt) · gradient. Both are first order:
trust them for small changes and for finding where to look, then patch what they point at. Through 8-bit layers rounding
counts as the identity. Sources: Shrikumar et al. 2017 (arXiv 1704.02685), Nanda 2023 "Attribution Patching", Kramár et
al. 2024 (arXiv 2403.00745). This file knows values and weights; it does not know text.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.analysis.patching import Metric
from cutaway.ground.errors import BadArgument
from cutaway.model.decoder import Decoder
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run


def gradient_times_input(decoder: Decoder, tokens: Tokens, metric: Metric) -> Float[Tensor, "T"]:
    """Of one text: the sum over the embedding of gradient x value, at each position."""
    site = "embed.projected" if decoder.config.projected else "embed.token"
    trace = run(decoder, tokens, [site, "logits"], grad=True)
    goal = metric(trace["logits"][:, -1])[0]
    slope_BTD = torch.autograd.grad(goal, trace[site])[0]
    return (slope_BTD * trace[site]).detach().sum(-1)[0]


def attribution_patching(
    decoder: Decoder, clean: Tokens, corrupt: Tokens, metric: Metric, sites: Sequence[str]
) -> dict[str, Float[Tensor, "T ..."]]:
    """Of each site [B, T, ...]: what patching the clean value into the corrupt pass would add to the measure.

    By position, and by head where the site has heads ("attn.z": [T, H]): the last axis is summed. Raises BadArgument
    for texts that are not one each, of equal length.
    """
    one, other = clean.ids.shape, corrupt.ids.shape
    if one[0] != 1 or one != other:
        found = f"texts of {list(one)} and {list(other)} tokens"
        raise BadArgument(found, "one text each, of as many tokens", "change a word so that both are as long")
    given, base = run(decoder, clean, sites), run(decoder, corrupt, [*sites, "logits"], grad=True)
    goal = metric(base["logits"][:, -1])[0]
    slopes = torch.autograd.grad(goal, [base[site] for site in sites])
    return {
        site: ((given[site] - base[site]).detach() * slope).sum(-1)[0]
        for site, slope in zip(sites, slopes, strict=True)
    }
