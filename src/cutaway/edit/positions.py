"""Positions to columns: which column of a value holds a text's position, padded or not, in one pass or in many.

A position counts a text's own tokens from 0, or from -1 back from the prompt's end. It knows tokens and columns; it
does not know what a value means, nor how it is changed.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.ground.errors import BadArgument
from cutaway.text.pieces import Tokens

FAR = 1 << 40  # beyond every text
Wanted = int | tuple[int, ...] | None  # an index, several, or all
FIRST_SITE = "embed.token"  # every pass begins with it


class Passes:
    """The passes of one run: the first over the prompt, then one for each new token.

    step: number of the pass, -1 before the first. positions [B, T]: of the tokens of this pass. all_positions [B, S]:
    of every token so far, as a cache holds them.
    """

    def __init__(self, prompt: Tokens) -> None:
        self.prompt, self.step = prompt, -1
        self.positions = self.all_positions = prompt.positions[:, :0]

    def skip(self, count: int) -> None:
        """So many passes ran before this run, which goes on from their cache."""
        for _ in range(count):
            self.enter()

    def enter(self) -> None:
        """The next pass begins."""
        self.step += 1
        self.positions = self.prompt.positions if self.step == 0 else (self.prompt.lengths + self.step - 1)[:, None]
        self.all_positions = torch.cat((self.all_positions, self.positions), 1)


def several(wanted: Wanted) -> tuple[int, ...] | None:
    """Always a tuple, or None for all."""
    return (wanted,) if isinstance(wanted, int) else wanted


def index_in(positions_BX: Int[Tensor, "B X"], lengths_B: Int[Tensor, "B"], wanted: Wanted) -> Int[Tensor, "B X"]:
    """The index of each column's position in the list of wanted ones, -1 where it is none of them (padding never is).

    lengths: of the prompts, from whose end negative positions count. None wants all: a position is its own index.
    """
    if wanted is None:
        return positions_BX
    targets_BW = _targets(lengths_B, wanted)
    same_BXW = positions_BX[:, :, None] == targets_BW[:, None]
    return torch.where(same_BXW.any(-1), same_BXW.int().argmax(-1), -1)


def columns(tokens: Tokens, wanted: Wanted) -> Int[Tensor, "B W"]:
    """The columns of each text's wanted positions. Raises BadArgument where a text has no such position."""
    lengths_B = tokens.lengths
    targets_BW = _targets(lengths_B, tuple(range(int(lengths_B.max()))) if wanted is None else wanted)
    outside_BW = (targets_BW < 0) | (targets_BW >= lengths_B[:, None])
    if outside_BW.any():
        row, which = outside_BW.nonzero()[0].tolist()
        length, position = int(lengths_B[row]), (several(wanted) or range(int(lengths_B.max())))[which]
        found = f"position {position} of text {row}, which has {length} tokens"
        raise BadArgument(found, f"{-length} to {length - 1}", "pass a position that the text has")
    first_B = tokens.mask.argmax(-1)  # a text's tokens are contiguous
    return first_B[:, None] + targets_BW


def by_position(value: Tensor, tokens: Tokens, wanted: Wanted) -> Tensor:
    """A value [B, T, ...] at the wanted positions of each text, in their order: [B, W, ...]. Raises as `columns`."""
    columns_BW = columns(tokens, wanted).to(value.device)
    return value[torch.arange(len(columns_BW), device=value.device)[:, None], columns_BW]


def pick(value: Tensor, dim: int, wanted: Wanted) -> Tensor:
    """One index of an axis (which is dropped), several, or all. Raises BadArgument for an index beyond its end."""
    size, chosen = value.shape[dim], several(wanted)
    if chosen is None:
        return value
    if max(chosen) >= size:
        raise BadArgument(f"the index {max(chosen)}", f"0 to {size - 1}", "pass an index that the axis has")
    if isinstance(wanted, int):
        return value.select(dim, wanted)
    return value.index_select(dim, torch.tensor(chosen, device=value.device))


def _targets(lengths_B: Tensor, wanted: int | Sequence[int]) -> Int[Tensor, "B W"]:
    """The wanted positions of each text, those that count from the end resolved."""
    # a number may be too large for a tensor
    near = [max(-FAR, min(FAR, position)) for position in ((wanted,) if isinstance(wanted, int) else wanted)]
    wanted_W = torch.tensor(near, dtype=torch.long, device=lengths_B.device)
    return torch.where(wanted_W < 0, lengths_B[:, None] + wanted_W, wanted_W)
