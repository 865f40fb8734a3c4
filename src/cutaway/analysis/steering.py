"""Can a direction steer the text? A steering vector from pairs of texts, to be added during generation.

The direction is the mean, over pairs, of the residual stream at the last token of one text minus that of the other;
added with a strength it steers the new text from the second kind toward the first. Trust it as a tendency: too small a
strength does nothing, too large a one breaks the language, and a single pair also carries its own topic. Sources:
Turner et al. 2023, "Activation Addition" (arXiv 2308.10248); Rimsky et al. 2023, "Contrastive Activation Addition"
(arXiv 2312.06681). This file knows values and tokens; it does not know text.
"""

from jaxtyping import Float
from torch import Tensor

from cutaway.edit.edit import Edit
from cutaway.ground.errors import BadArgument
from cutaway.ground.sites import all_sites, clean_name
from cutaway.model.decoder import Decoder
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run


def direction(decoder: Decoder, toward: Tokens, away: Tokens, site: str) -> Float[Tensor, "D"]:
    """Mean of the site at the last tokens of `toward`'s texts minus that of `away`'s, pair by pair.

    Raises BadArgument where their numbers differ, or the site is not one vector for each position.
    """
    if len(toward.ids) != len(away.ids):
        found = f"{len(toward.ids)} texts toward and {len(away.ids)} away"
        raise BadArgument(found, "as many of both", "give each text its pair")
    shape = getattr(all_sites(decoder.config).get(clean_name(site)), "shape", "B T D")
    if shape not in ("B T D", "B T F"):
        raise BadArgument(f"the site {site} [{shape}]", "one with a vector a position", "steer blocks.*.resid_post")
    ends = [run(decoder, tokens, site, positions=-1) for tokens in (toward, away)]
    if len(ends[0]) != 1:
        raise BadArgument(f"{len(ends[0])} sites", "one site", "name one block, such as blocks.8.resid_post")
    one, other = (next(iter(trace.values()))[:, 0] for trace in ends)
    return (one - other).mean(0)


def steer(decoder: Decoder, toward: Tokens, away: Tokens, site: str, strength: float) -> Edit:
    """The edit that adds the direction, `strength` times, at every position and every step."""
    return Edit.add(clean_name(site), strength * direction(decoder, toward, away, site))
