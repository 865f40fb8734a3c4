"""Tokens: the pieces of a batch of texts, and their numbers: ids, mask, positions.

It does not know the tokenizer that split the text, nor the model that reads it.
"""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cutaway.ground.display import Displayed
from cutaway.ground.errors import BadArgument
from cutaway.ground.packed import Kept
from cutaway.text.table import characters, draw, visible


@dataclass(frozen=True)
class Piece:
    """One token of one text.

    text: for a reader (an incomplete character is U+FFFD); bytes: exactly, possibly an incomplete character; span: in
    characters of the text, [start, end), or None where it is not in the text (an added BOS, padding). A piece inside a
    character of several bytes has the span of that character.
    """

    id: int
    text: str
    bytes: bytes
    span: tuple[int, int] | None
    special: bool = False
    padding: bool = False

    @property
    def marked(self) -> str:
        """The piece as text, and in ⟨⟩ what is none: a special token, bytes of no character, an id without text."""
        if not self.bytes:
            return f"⟨id·{self.id}⟩"
        return f"⟨{self.text}⟩" if self.special else characters(self.bytes)

    @property
    def visible(self) -> str:
        """The piece as it is drawn everywhere: ␣like, ↵, ⟨</s>⟩, ⟨F0·9F⟩."""
        return visible(self.marked)

    def as_data(self) -> dict[str, Any]:
        """The piece as JSON: `bytes` in hexadecimal, `span` as two numbers or None."""
        span = list(self.span) if self.span else None
        return asdict(self) | {"visible": self.visible, "bytes": self.bytes.hex(), "span": span}


@dataclass(frozen=True, repr=False)
class Tokens(Kept, Displayed):
    """A batch of token sequences.

    ids [B, T]; mask [B, T], 1 on real tokens and 0 on padding; positions [B, T] count the real tokens of a row
    from 0 and are -1 on padding. pieces: one tuple for each text, or None where the ids came without a text.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    pieces: tuple[tuple[Piece, ...], ...] | None = None

    @classmethod
    def from_ids(
        cls,
        ids: Any,
        mask: Any = None,
        pieces: tuple[tuple[Piece, ...], ...] | None = None,
    ) -> "Tokens":
        """Tokens of ids [T] or [B, T], a tensor, an array or lists, and a mask of the same shape (all ones if None).

        Raises BadArgument where the shapes differ, ids are not integers from 0 up, or a row's ones in the mask are not
        contiguous (padding may be on the left and on the right, never inside a text).
        """
        ids_BT = _integers(ids)
        mask_BT = torch.ones_like(ids_BT) if mask is None else _checked_mask(mask, ids_BT)
        return cls(ids_BT, mask_BT, positions_of(mask_BT), pieces)

    @cached_property
    def padded(self) -> bool:
        """Whether any position is padding. Cached, so that a decode step does not synchronize with the device."""
        return not bool(self.mask.all())

    @cached_property
    def lengths(self) -> Tensor:
        """Real tokens of each text, [B]."""
        return self.mask.sum(-1)

    @cached_property
    def last(self) -> Tensor:
        """Index along T of each text's last real token, [B]."""
        index_T = torch.arange(self.mask.shape[1], device=self.mask.device)
        return (self.mask * index_T).argmax(-1)

    def to(self, device: torch.device | str) -> "Tokens":
        """The same tokens with their tensors on another device."""
        moved = (x.to(device) for x in (self.ids, self.mask, self.positions))
        return replace(self, **dict(zip(("ids", "mask", "positions"), moved, strict=True)))

    def first(self, count: int) -> "Tokens":
        """The first `count` tokens of each text, padding on the right and no pieces; self where no text is longer."""
        if int(self.lengths.max()) <= count:
            return self
        start_B1 = self.mask.argmax(-1, keepdim=True)
        index_BT = start_B1 + torch.arange(count, device=self.ids.device)
        read_BT = index_BT.clamp(max=self.ids.shape[1] - 1)
        mask_BT = self.mask.gather(1, read_BT) * (index_BT == read_BT)
        return Tokens.from_ids(self.ids.gather(1, read_BT), mask_BT)

    def as_data(self) -> dict[str, Any]:
        """Everything as JSON: ids, mask and positions as lists [B][T], pieces as dicts (or None)."""
        pieces = None if self.pieces is None else [[p.as_data() for p in row] for row in self.pieces]
        numbers = {name: getattr(self, name).tolist() for name in ("ids", "mask", "positions")}
        return {**numbers, "pieces": pieces}

    def table(self, width: int = 80) -> str:
        """Piece, id, mask and position of each token, one block for each text, no line over `width` columns.

        Raises BadArgument for a width under 24.
        """
        return "\n\n".join(self._block(row, width) for row in range(len(self.ids)))

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"<Tokens {list(self.ids.shape)}; print them for pieces, ids, mask and positions>"

    def _block(self, row: int, width: int) -> str:
        n_real, n_padding = int(self.lengths[row]), self.ids.shape[1] - int(self.lengths[row])
        padding = f" + {n_padding} padding" if n_padding else ""
        marks = "; ⟨⟩ special" if self.pieces and any(p.special for p in self.pieces[row]) else ""
        count = f"{n_real} token{'s' * (n_real != 1)}"
        title = f"text {row + 1} of {len(self.ids)}: {count}{padding}{marks}"
        return draw(title, self._rows(row), width)

    def _rows(self, row: int) -> dict[str, list[str]]:
        ids, mask, positions = (x[row].tolist() for x in (self.ids, self.mask, self.positions))
        rows = {
            "id": [str(i) for i in ids],
            "mask": [str(m) for m in mask],
            "position": [str(p) if m else "" for p, m in zip(positions, mask, strict=True)],
        }
        if self.pieces is None:
            return rows
        return {"piece": [piece.visible for piece in self.pieces[row]], **rows}


def positions_of(mask_BT: Tensor) -> Tensor:
    """Positions from the mask: the number of real tokens before each, and -1 on padding (as in OPT)."""
    return mask_BT.cumsum(-1) * mask_BT - 1


def _integers(ids: Any) -> Tensor:
    do = "pass the ids of a text"
    try:
        ids_BT = ids if isinstance(ids, Tensor) else torch.as_tensor(ids, device="cpu")
    except (ValueError, TypeError, RuntimeError, IndexError) as error:  # unequal rows, or no numbers at all
        raise BadArgument(f"ids that are no tensor ({error})", "integers, rows of equal length", do) from error
    ids_BT = ids_BT[None] if ids_BT.ndim == 1 else ids_BT
    whole = not (ids_BT.is_floating_point() or ids_BT.is_complex() or ids_BT.dtype is torch.bool)
    if ids_BT.ndim != 2 or not whole or ids_BT.numel() == 0:
        found = f"ids of shape {list(ids_BT.shape)} and type {ids_BT.dtype}"
        raise BadArgument(found, "integers of shape [T] or [B, T], at least one", do)
    ids_BT = ids_BT.long()  # torch has no min() of the unsigned dtypes
    if int(ids_BT.min()) < 0:
        raise BadArgument(f"the id {int(ids_BT.min())}", "ids from 0 up", do)
    return ids_BT


def _checked_mask(mask: Any, ids_BT: Tensor) -> Tensor:
    try:
        mask_BT = torch.as_tensor(mask, device=ids_BT.device)
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        raise BadArgument(f"a mask that is no tensor ({error})", "one number for each id", "pass 0 and 1") from error
    mask_BT = mask_BT[None] if mask_BT.ndim == 1 else mask_BT
    if mask_BT.shape != ids_BT.shape:
        found = f"a mask of shape {list(mask_BT.shape)} for ids of shape {list(ids_BT.shape)}"
        raise BadArgument(found, "one number for each id", "pass a mask of the ids' shape, or none")
    for row, values in enumerate(mask_BT.tolist()):
        ones = [index for index, value in enumerate(values) if value]
        if not ones or ones[-1] - ones[0] + 1 != len(ones) or any(value not in (0, 1) for value in values):
            found = f"row {row} of a mask with {len(ones)} ones" + (", not in one run" if ones else "")
            expected = "one run of ones a text, and 0 on the padding beside it"
            raise BadArgument(found, expected, "put the padding on the left or the right of the text")
    return mask_BT.long()
