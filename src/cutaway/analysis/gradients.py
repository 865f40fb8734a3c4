"""What would change the answer? Gradients of a metric: by input token, and as a cheap estimate of every patch at once.

Gradient x input is the change of the metric per relative growth of a token's embedding; attribution patching estimates
every patch's effect from one forward and one backward pass: (clean - corrupt) · gradient. Both are first order: trust
them for small changes and as candidates, then patch those. 8-bit layers use the straight-through estimator. Sources:
Shrikumar et al. 2017 (arXiv 1704.02685), Nanda 2023 "Attribution Patching", Kramár et al. 2024 (arXiv 2403.00745). This
file knows values and weights; it does not know text.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.analysis.metric import Metric
from cutaway.analysis.patching import require_pair
from cutaway.model.decoder import Decoder
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run


def gradient_times_input(decoder: Decoder, tokens: Tokens, metric: Metric) -> Float[Tensor, "B T"]:
    """Of each text: the sum over the embedding of gradient x value, at each position; 0 on padding.

    metric: of the logits after each text's last token; a row's number must depend on its own row alone.
    """
    site = "embed.projected" if decoder.config.projected else "embed.token"
    trace = run(decoder, tokens, [site, "logits"], grad=True)
    rows_B = torch.arange(len(tokens.ids), device=tokens.ids.device)
    with torch.enable_grad():
        value = metric(trace["logits"][rows_B, tokens.last]).sum()
    gradient_BTD = torch.autograd.grad(value, trace[site])[0]
    return (gradient_BTD * trace[site]).detach().sum(-1) * tokens.mask


def attribution_patching(
    decoder: Decoder, clean: Tokens, corrupt: Tokens, metric: Metric, sites: Sequence[str]
) -> dict[str, Float[Tensor, "T ..."]]:
    """Of each site [B, T, ...]: the estimated effect on the metric of patching the clean value into the corrupt pass.

    By position, and by head where the site has heads ("attn.z": [T, H]): the last axis is summed. Raises BadArgument
    for texts that are not one each, of equal length.
    """
    require_pair(clean, corrupt)
    source, base = run(decoder, clean, sites), run(decoder, corrupt, [*sites, "logits"], grad=True)
    value = metric(base["logits"][:, -1])[0]
    gradients = torch.autograd.grad(value, [base[site] for site in sites])
    return {
        site: ((source[site] - base[site]).detach() * gradient).sum(-1)[0]
        for site, gradient in zip(sites, gradients, strict=True)
    }
