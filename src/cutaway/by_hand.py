"""A model's own parts: its weights by name, and its modules run on a value that is fed by hand.

It turns texts into tokens, and calls model/parts.py and quant/weights.py; it does not know how a part computes.
"""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cutaway.ground.errors import BadArgument
from cutaway.ground.whole import whole
from cutaway.model.parts import embedded, run_part
from cutaway.quant.weights import Weights
from cutaway.questions import Questions, Texts
from cutaway.text.pieces import Tokens


class ByHand(Questions):
    """What LM inherits."""

    @cached_property
    def weights(self) -> Weights:
        """Every weight that a formula names, by name: lm.weights["blocks.3.W_O"] is [outputs, inputs], float32."""
        return Weights(self.decoder)

    def run_part(self, name: str, x: Tensor | Texts, tokens: Texts | None = None) -> Tensor:
        """What one module gives for a value: run_part("blocks.0.attn", x), by the names of the printed model.

        x: texts, ids or Tokens for "embed" and its tables; else what the part reads: [B, T, D], or [..., inputs] of a
        linear layer ("blocks.0.attn.qkv"). tokens: of which x is, whose padding and positions attention obeys; without
        them there is no padding, and positions count from 0. A part is the module alone: no norm before it, no sum
        after it. Gradients flow to an x that asks for them. Raises BadArgument for an unknown part, or another x.
        """
        if name in ("embed", "embed.token", "embed.position"):
            texts: Any = self.tokens(x)
            return embedded(self.decoder, name, texts)
        given: Any = tokens if tokens is None else self.tokens(tokens)
        if given is None:
            shape = x.shape[:2] if isinstance(x, Tensor) and x.ndim == 3 else (1, 1)
            given = Tokens.from_ids(torch.zeros(shape, dtype=torch.long, device=self.decoder.embed.token.weight.device))
        return run_part(self.decoder, str(name), x, given)

    def run_block(self, layer: int, resid: Tensor, tokens: Texts | None = None) -> Tensor:
        """The residual stream [B, T, D] after a block, from the one before it. tokens: as in `run_part`."""
        number, count = whole(layer), self.decoder.config.n_layers
        if number is None or not -count <= number < count:
            raise BadArgument(f"layer={layer!r}", f"a block of 0 to {count - 1}", "pass for example layer=0")
        return self.run_part(f"blocks.{number % count}", resid, tokens)
