"""The letters of shapes, and the types of public signatures.

B texts, T positions, S positions attended to, D model width, H heads, G key/value heads, K head width,
F MLP width, X experts, V vocabulary, E embedding width. A variable of the model ends in its shape: resid_BTD.
It knows no model and no value. Annotations are checked in the tests, by beartype.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor

from cutaway.ground.config import DecoderConfig

AXES = {
    "B": "texts",
    "T": "positions",
    "S": "positions attended to",
    "D": "model width",
    "H": "heads",
    "G": "key/value heads",
    "K": "head width",
    "F": "MLP width",
    "X": "experts",
    "V": "vocabulary",
    "E": "embedding width",
}


@runtime_checkable
class TokenBatch(Protocol):
    """The decoder's input: numbers only, no text.

    ids, mask and positions are integer tensors [B, T]; mask is 1 on real tokens and 0 on padding; positions
    count the real tokens of a row from 0 and are -1 on padding. `padded` says whether any mask is 0.
    """

    @property
    def ids(self) -> Tensor: ...
    @property
    def mask(self) -> Tensor: ...
    @property
    def positions(self) -> Tensor: ...
    @property
    def padded(self) -> bool: ...


def longest_text(tokens: TokenBatch) -> int:
    """Real tokens of the longest text."""
    return int(tokens.mask.sum(-1).max()) if tokens.padded else tokens.ids.shape[1]


def sizes(config: DecoderConfig) -> dict[str, int]:
    """The sizes of the model's axes, by letter."""
    return {
        "D": config.d_model, "H": config.n_heads, "G": config.n_kv_heads, "K": config.d_head,
        "F": config.d_mlp, "X": config.n_experts, "V": config.vocab_size, "E": config.d_embed,
    }  # fmt: skip
