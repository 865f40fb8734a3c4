"""How far does a change reach? What differs between two passes over as many positions, block by block.

The cone is measured, not assumed: at each block and position |stream - base's| / |base's|, in L2 norms. It is exactly 0
where nothing changed, bit for bit; where the base's stream is all zeros it is inf, or NaN if the other is too. Two
prompts are compared position by position: align them by words of as many tokens. This file knows values; it does not
know what was changed.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.analysis.logit_lens import stream_sites
from cutaway.ground.errors import BadArgument
from cutaway.trace.trace import Trace


def cone(trace: Trace, base: Trace) -> Float[Tensor, "L B T"]:
    """The relative change of the residual stream before the first block and after each, [layers + 1, B, T].

    Both must hold `stream_sites` at the same positions, which are T. Raises BadArgument for passes of other lengths or
    other positions, or of models of other facts.
    """
    one, other = list(trace.tokens.ids.shape), list(base.tokens.ids.shape)
    if trace.config != base.config or one != other:
        found = f"passes over {one} and {other} tokens" if one != other else "passes of two models"
        raise BadArgument(found, "two of one model, over as many tokens", "change words, or the number of tokens")
    if trace.positions != base.positions:
        found = f"positions {trace.positions} and {base.positions}"
        raise BadArgument(found, "the same positions of both", "record both with the same positions=")
    rows = []
    for site in stream_sites(trace.config):
        was = base[site].float()
        rows.append((trace[site].float() - was).norm(dim=-1) / was.norm(dim=-1))
    return torch.stack(rows)
