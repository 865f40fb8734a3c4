"""A generation's trace: the parts that each pass recorded, joined so that a column is a text's own position.

It knows parts and columns; it does not know how the tokens between them were chosen.
"""

import math
from collections.abc import Mapping, Sequence
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.ground.config import DecoderConfig
from cutaway.ground.sites import all_sites
from cutaway.model.decoder import Decoder
from cutaway.text.pieces import Tokens
from cutaway.trace.plan import Plan
from cutaway.trace.record import Recorder, as_it_is
from cutaway.trace.trace import Trace


class Recording:
    """What is recorded while texts are written: `tap` for the passes, `trace` for what came of them.

    sites: whole names. edited: the sites that edits act on in the same passes. plan: the cost of the longest texts.
    """

    def __init__(
        self, decoder: Decoder, prompt: Tokens, sites: Sequence[str], plan: Plan, *, edited: Sequence[str], model: str
    ) -> None:
        self.decoder, self.prompt, self.plan, self.model = decoder, prompt, plan, model
        self.tap = Recorder(sites, keep=as_it_is)
        asked = [*sites, *edited]
        self.attention = (
            "explicit" if any(name.endswith(("attn.scores", "attn.pattern")) for name in asked) else "fused"
        )

    def trace(self, new_ids: Sequence[Sequence[int]]) -> Trace:
        """The trace of prompts and new tokens. Column t of a value is the text's own position t."""
        tokens, config = read_tokens(self.prompt, new_ids), self.decoder.config
        values = join(self.tap.parts, self.prompt, tokens, config)
        return Trace(values, tokens, config, self.attention, self.model, plan=self.plan, made_by=ref(self.decoder))


def read_tokens(prompt: Tokens, new_ids: Sequence[Sequence[int]]) -> Tokens:
    """What the model read of each text, padded on the right: prompt and new tokens but the last, which nothing read."""
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(prompt.ids, prompt.mask, strict=True)]
    rows = [[*ids, *new[:-1]] for ids, new in zip(prompts, new_ids, strict=True)]
    longest = max(map(len, rows))
    ids_BT = [[*row, *[0] * (longest - len(row))] for row in rows]
    mask_BT = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return Tokens.from_ids(ids_BT, mask_BT).to(prompt.ids.device)


def join(
    parts: Mapping[str, Sequence[Tensor]], prompt: Tokens, tokens: Tokens, config: DecoderConfig
) -> dict[str, Tensor]:
    """Values by site, [B, T, ...] of `tokens`: column t of a text is its position t, and padding is all zeros.

    parts: of each site, the value of the pass over the prompt, then one of each further token.
    """
    columns_BT = _columns(prompt, tokens)
    table = all_sites(config)
    return {site: _join(table[site].shape, values, columns_BT, tokens.mask) for site, values in parts.items()}


def _columns(prompt: Tokens, tokens: Tokens) -> Tensor:
    """Where each text's positions stand in the parts laid side by side: in the prompt, then after all of it."""
    position_BT = tokens.positions.clamp(min=0)
    first_B1, lengths_B1 = prompt.mask.argmax(-1)[:, None], prompt.lengths[:, None]
    after_BT = prompt.ids.shape[1] + position_BT - lengths_B1
    return torch.where(position_BT < lengths_B1, first_B1 + position_BT, after_BT)


def _join(shape: str, parts: Sequence[Tensor], columns_BT: Tensor, mask_BT: Tensor) -> Tensor:
    rows_B1, real_BT = torch.arange(len(columns_BT), device=columns_BT.device)[:, None], mask_BT.bool()
    if not shape.startswith("B H T"):
        side_by_side = torch.cat(list(parts), 1)
        if len(columns_BT) == 1 and side_by_side.shape[1] == columns_BT.shape[1]:
            return side_by_side  # one text, without padding
        value = side_by_side[rows_B1, columns_BT]
        return value.where(real_BT.reshape(*real_BT.shape, *(1,) * (value.ndim - 2)), 0)
    attended = parts[-1].shape[-1]
    hidden = -math.inf if any(bool(part.isneginf().any()) for part in parts) else 0.0  # scores, or pattern
    wide = torch.cat([F.pad(part, (0, attended - part.shape[-1]), value=hidden) for part in parts], 2)
    # [B, T, H, S], then [B, S, H, T], each reordered along its second axis
    value = wide.transpose(1, 2)[rows_B1, columns_BT].transpose(1, 3)[rows_B1, columns_BT].transpose(1, 3)
    earlier_BTS = real_BT[:, :, None] & real_BT[:, None]
    return torch.where(earlier_BTS[:, :, None], value, hidden).transpose(1, 2).contiguous()
