"""The KV cache: keys and values of the positions already read, so that a decode pass computes new positions only.

The one file of the model that writes in place. It knows slots and lengths; it does not know attention.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.ground.errors import BadArgument
from cutaway.ground.shapes import TokenBatch


class Cache:
    """`capacity` slots for each of `batch` texts in every block, allocated when the first keys arrive, in their dtype.

    Slots are filled left to right for all texts at once; padding takes a slot too, which the mask hides. A slot is
    not a position: positions come with the tokens.
    """

    def __init__(self, n_layers: int, batch: int, capacity: int) -> None:
        if capacity < 1 or batch < 1:
            found = f"a cache for {batch} texts of {capacity} positions"
            raise BadArgument(found, "at least one of each", "pass the length of the prompt and the new tokens")
        self.batch, self.capacity = batch, capacity
        self.length = 0  # slots filled
        self.padded = False  # whether any filled slot is padding
        self.mask: Tensor | None = None  # [B, capacity], 1 on real tokens
        self.keys: list[Tensor | None] = [None] * n_layers  # each [B, capacity, G, K]
        self.values: list[Tensor | None] = [None] * n_layers

    def admit(self, tokens: TokenBatch) -> None:
        """Take slots for the next tokens and store their mask. Raises BadArgument beyond the capacity."""
        batch, new = tokens.ids.shape
        if batch != self.batch or self.length + new > self.capacity:
            found = f"{batch} texts of {self.length + new} positions"
            expected = f"{self.batch} texts of at most {self.capacity}"
            raise BadArgument(found, expected, "make a larger cache, or rewind this one")
        if self.mask is None:
            self.mask = torch.ones(batch, self.capacity, dtype=torch.long, device=tokens.ids.device)
        if tokens.padded or self.padded:
            self.mask[:, self.length : self.length + new] = tokens.mask
            self.padded = True
        self.length += new

    def extend(
        self, layer: int, k_BTGK: Float[Tensor, "B T G K"], v_BTGK: Float[Tensor, "B T G K"]
    ) -> tuple[Float[Tensor, "B S G K"], Float[Tensor, "B S G K"]]:
        """Write one block's new keys and values into the slots just admitted; returns all of its slots so far."""
        keys, values = self._slots(layer, k_BTGK)
        new = k_BTGK.shape[1]
        keys.narrow(1, self.length - new, new).copy_(k_BTGK)
        values.narrow(1, self.length - new, new).copy_(v_BTGK)
        return keys.narrow(1, 0, self.length), values.narrow(1, 0, self.length)

    def rewind(self, length: int) -> None:
        """Forget every slot from `length` on, so that the next tokens overwrite them."""
        if not 0 <= length <= self.length:
            raise BadArgument(f"rewind to {length}", f"0 to {self.length}, the slots filled", "rewind to less")
        self.length = length
        if self.mask is not None:
            self.mask[:, length:] = 1
            self.padded = self.padded and not bool(self.mask.all())

    def keep(self, rows: Sequence[int]) -> None:
        """Only these texts from now on, renumbered in this order; the others' keys and values are gone."""
        for stored in (self.keys, self.values):
            for layer, all_BSGK in enumerate(stored):
                if all_BSGK is not None:
                    kept_BSGK = all_BSGK.new_empty(len(rows), *all_BSGK.shape[1:])
                    for new, row in enumerate(rows):
                        kept_BSGK[new, : self.length] = all_BSGK[row, : self.length]
                    stored[layer] = kept_BSGK
        self.batch = len(rows)
        if self.mask is not None:
            self.mask = self.mask[list(rows)]
            self.padded = self.padded and not bool(self.mask.all())

    def _slots(self, layer: int, k_BTGK: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.keys[layer], self.values[layer]
        if keys is None or values is None:
            batch, _, groups, width = k_BTGK.shape
            keys = k_BTGK.new_empty(batch, self.capacity, groups, width)
            values = torch.empty_like(keys)
            self.keys[layer], self.values[layer] = keys, values
        return keys, values
