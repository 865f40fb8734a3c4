"""Ids checked for a model: the mask of padded ids without one, and whether the embedding has a row for each id.

It does not know the texts that the ids came from, nor the model.
"""

from dataclasses import replace

import torch
from torch import Tensor

from cutaway.ground.errors import BadArgument, BadText
from cutaway.ground.warn import warn
from cutaway.text.pieces import Tokens


def tokens_of_ids(ids: Tensor, pad_id: int | None, bos_id: int | None, eos_ids: frozenset[int]) -> Tokens:
    """Tokens of ids [T] or [B, T] without a mask. Pad tokens at the ends of rows are taken for padding, with a warning,
    unless the pad token also ends texts. Raises as Tokens.from_ids.

    A pad token that also begins texts (Qwen's) is padding only where some row begins or ends with two of them.
    transformers' generate infers the mask likewise, but masks a pad token inside a text too.
    """
    tokens = Tokens.from_ids(ids)
    if pad_id is None or pad_id in eos_ids or not bool((tokens.ids == pad_id).any()):
        return tokens
    real_BT = tokens.ids != pad_id
    mask_BT = (real_BT.cumsum(-1) > 0) & (real_BT.flip(-1).cumsum(-1).flip(-1) > 0)
    if pad_id == bos_id and int((~mask_BT).sum(-1).max()) < 2:
        return tokens
    if bool(mask_BT.all()) or not bool(mask_BT.any(-1).all()):  # a row of pad tokens only is a text of that token
        return tokens
    count = int((~mask_BT).sum())
    warn(
        f"{count} pad tokens (id {pad_id}) at the ends of rows are taken for padding; "
        "pass Tokens.from_ids(ids, mask) to say otherwise"
    )
    return Tokens.from_ids(tokens.ids, mask_BT.to(torch.long))


def fitting(tokens: Tokens, vocab_size: int, context: int) -> Tokens:
    """The tokens, checked against the rows of the embedding and the context.

    No real token reads padding: a pad id beyond the embedding becomes its last row. Raises BadArgument for another id
    without a row, BadText for a text longer than the context.
    """
    real = tokens.ids[tokens.mask.bool()]
    lowest, highest = int(real.min()), int(real.max())
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        expected = f"ids from 0 to {vocab_size - 1}, the rows of the embedding"
        raise BadArgument(f"the id {wrong}", expected, "use a tokenizer, or leave out a token, that fits this model")
    longest = int(tokens.lengths.max())
    if longest > context:
        raise BadText(f"a text of {longest} tokens", f"at most {context}, the model's context", "shorten the text")
    return replace(tokens, ids=tokens.ids.clamp(max=vocab_size - 1)) if tokens.padded else tokens
