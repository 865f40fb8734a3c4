"""A generation's trace: what each pass recorded, in order, so that a column is a text's own position.

It knows passes and columns; it does not know how the tokens between them were chosen.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cutaway.model.decoder import Decoder
from cutaway.text.pieces import Tokens
from cutaway.trace.generation_recorder import ATTENTION, GenerationRecorder
from cutaway.trace.plan import Plan
from cutaway.trace.trace import Trace


class Recording:
    """What is recorded while texts are generated: `tap` for the passes, `trace` for their values.

    plan: the sites, and their cost for the longest texts. new: how many tokens may be chosen, at most. edited: the
    sites that edits act on in the same passes. spelled: gives tokens their pieces.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompt: Tokens,
        plan: Plan,
        *,
        new: int,
        edited: Sequence[str],
        model: str,
        spelled: Callable[[Tokens], Tokens],
    ) -> None:
        self.decoder, self.prompt, self.plan, self.model, self.spelled = decoder, prompt, plan, model, spelled
        self.tap = GenerationRecorder(plan.rows, prompt.ids.shape[1] + new - 1, prompt.ids.device)
        explicit = any(name.endswith(ATTENTION) for name in [*self.tap.sites, *edited])
        self.attention = "explicit" if explicit else "fused"

    def __repr__(self) -> str:
        return f"<Recording for a generation by {self.model or 'a model'}, at most {self.plan!r}>"

    def trace(self, new_ids: Sequence[Sequence[int]]) -> Trace:
        """The trace of prompts and new tokens. Column t of a value is the text's own position t."""
        tokens, config = read_tokens(self.prompt, new_ids), self.decoder.config
        values = by_position(self.tap, _columns(self.prompt, tokens), tokens.mask.bool())
        return Trace(values, self.spelled(tokens), config, self.attention, self.model, plan=self.plan)


def read_tokens(prompt: Tokens, new_ids: Sequence[Sequence[int]]) -> Tokens:
    """What the model read of each text, padded on the right: prompt and new tokens but the last, which nothing read."""
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(prompt.ids, prompt.mask, strict=True)]
    rows = [[*ids, *new[:-1]] for ids, new in zip(prompts, new_ids, strict=True)]
    longest = max(map(len, rows))
    ids_BT = [[*row, *[0] * (longest - len(row))] for row in rows]
    mask_BT = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return Tokens.from_ids(ids_BT, mask_BT).to(prompt.ids.device)


def by_position(tap: GenerationRecorder, columns_BT: Tensor, real_BT: Tensor) -> dict[str, Tensor]:
    """Values by site, [B, T, ...]: column t of a text is what columns_BT says, and padding is all zeros."""
    values = {}
    for site in tap.order:
        value = tap.values[site][: tap.filled]
        if not site.endswith(ATTENTION):
            values[site] = _one_axis(value, columns_BT, real_BT)
        else:
            values[site] = _both_axes(value, columns_BT, real_BT, -math.inf if site.endswith("scores") else 0.0)
    return values


def _columns(prompt: Tokens, tokens: Tokens) -> Tensor:
    """The column of each text's positions among those of all passes: in the prompt, then after all of it."""
    position_BT = tokens.positions.clamp(min=0)
    first_B1, lengths_B1 = prompt.mask.argmax(-1)[:, None], prompt.lengths[:, None]
    after_BT = prompt.ids.shape[1] + position_BT - lengths_B1
    return torch.where(position_BT < lengths_B1, first_B1 + position_BT, after_BT)


def _one_axis(value_CBX: Tensor, columns_BT: Tensor, real_BT: Tensor) -> Tensor:
    if len(columns_BT) == 1 and len(value_CBX) == columns_BT.shape[1]:
        return value_CBX.transpose(0, 1)  # one text, without padding
    value_BTX = value_CBX[columns_BT, _texts(columns_BT)]
    return value_BTX.where(real_BT.reshape(*real_BT.shape, *(1,) * (value_BTX.ndim - 2)), 0)


def _both_axes(value_CBHC: Tensor, columns_BT: Tensor, real_BT: Tensor, hidden: float) -> Tensor:
    """[B, H, T, T]; later positions and padding are masked, as their columns hold arbitrary values."""
    value_BTHC = value_CBHC[columns_BT, _texts(columns_BT)]
    index_BTHS = columns_BT[:, None, None].expand(*value_BTHC.shape[:3], -1)
    attended_BTS = (real_BT[:, :, None] & real_BT[:, None]).tril()
    return torch.where(attended_BTS[:, :, None], value_BTHC.gather(3, index_BTHS), hidden).transpose(1, 2).contiguous()


def _texts(columns_BT: Tensor) -> Tensor:
    return torch.arange(len(columns_BT), device=columns_BT.device)[:, None]
