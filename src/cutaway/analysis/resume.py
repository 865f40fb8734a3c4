"""A pass that starts at a block: what comes before it is taken from a recorded pass of the same tokens.

It does not know what differs in the second pass: a tap's values, or a module of the decoder.
"""

from jaxtyping import Float
from torch import Tensor

from cutaway.model.decoder import Decoder
from cutaway.model.tap import Tap, untapped
from cutaway.text.pieces import Tokens


def from_block(
    decoder: Decoder, tokens: Tokens, layer: int, resid_BTD: Float[Tensor, "B T D"], tap: Tap = untapped
) -> Float[Tensor, "B T D"]:
    """The residual stream after the last block, of a pass that enters block `layer` with its resid_pre."""
    info = decoder.info(tokens, None, resid_BTD.dtype)  # pyright: ignore[reportArgumentType]  a cached property is one
    return decoder.run_blocks(decoder.blocks[layer:], resid_BTD, info, None, tap)
