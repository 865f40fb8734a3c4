"""Tokenizer: texts to Tokens and ids back to text.

It does not know the model that reads the ids, nor which files the vocabulary came from (from_folder.py, from_gguf.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from tokenizers import Encoding

from cutaway.ground.errors import BadArgument, BadText, NoTokenizer
from cutaway.ground.warn import warn
from cutaway.ground.whole import whole
from cutaway.text.from_folder import parts_from_folder
from cutaway.text.from_gguf import parts_from_gguf
from cutaway.text.merges import Merge, Ranks, merges, ranks
from cutaway.text.parts import Parts
from cutaway.text.pieces import Piece, Tokens
from cutaway.text.spans import Span, covering
from cutaway.text.spelling import spelling_of

MOST_IDS = 1 << 32  # what the tokenizers library counts to


class Tokenizer:
    """A vocabulary with its rules. Ids and texts are those of transformers' tokenizer of the same model.

    notes: sentences for the user on what was assumed.
    """

    def __init__(self, parts: Parts) -> None:
        self.backend = parts.backend
        self.backend.no_truncation()  # a text that is too long is refused, never cut in silence
        self.backend.no_padding()
        self.names = parts.names
        self.chat_template = parts.chat_template
        self.notes = parts.notes
        self.spelling = spelling_of(self.backend)

    @classmethod
    def from_folder(cls, path: Path, model_type: str | None = None) -> "Tokenizer":
        """The tokenizer of a model's local folder, without a network call. Raises NoTokenizer.

        model_type: used where its config.json names none.
        """
        return cls(parts_from_folder(Path(path), model_type))

    @classmethod
    def from_gguf(cls, metadata: dict[str, Any]) -> "Tokenizer":
        """The tokenizer in a GGUF file's metadata (`tokenizer.*`). Raises NoTokenizer."""
        return cls(parts_from_gguf(metadata))

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary, added ones too. A model may have more rows than this (OPT: 50265 of 50272)."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def bos_id(self) -> int | None:
        """Id of the token that begins a text, where the model has one."""
        return self._id_of("bos_token")

    @property
    def eos_id(self) -> int | None:
        """Id of the token that ends a text, where the model has one."""
        return self._id_of("eos_token")

    @property
    def pad_id(self) -> int | None:
        """Id of the token that pads a text on either side, where the model has one."""
        return self._id_of("pad_token")

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that `decode` leaves out: control tokens and those with a role."""
        return frozenset(i for i, token in self.backend.get_added_tokens_decoder().items() if token.special)

    def tokenize(
        self,
        texts: str | Sequence[str],
        *,
        padding_side: Literal["right", "left"] = "right",
        add_special_tokens: bool = True,
        context: int | None = None,
    ) -> Tokens:
        """Ids, mask and positions [B, T] of one text or several, with their pieces.

        Shorter texts are padded to the longest with the pad token, or with EOS, or with id 0. Warns of a second BOS
        where the text begins with one already. Raises BadText for an empty text and for one of more than `context`
        tokens, BadArgument for a text that is no str or an unknown side.
        """
        if padding_side not in ("right", "left"):
            raise BadArgument(f"padding_side={padding_side!r}", "right or left", "pass one of the two")
        checked = _checked(texts)
        rows = [self._row(text, add_special_tokens) for text in checked]
        self._warn_of_second_bos(rows)
        _check_lengths([len(row) for row in rows], context)
        return self._padded(rows, padding_side)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of ids, as transformers decodes without cleaning up. An incomplete character becomes U+FFFD."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    def spelled(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens included: stop strings are searched in it."""
        return self.decode(ids, skip_special_tokens=False)

    def pieces(self, ids: Iterable[int]) -> tuple[Piece, ...]:
        """Pieces of ids without a text: their spans are None."""
        return tuple(self._piece(_checked_id(i), None) for i in ids)

    def with_pieces(self, tokens: Tokens) -> Tokens:
        """The same tokens with their pieces, where they came as ids; spans are None."""
        if tokens.pieces is not None:
            return tokens
        rows = zip(tokens.ids.tolist(), tokens.mask.tolist(), strict=True)
        pieces = tuple(tuple(self._piece(i, None, not m) for i, m in zip(*row, strict=True)) for row in rows)
        return replace(tokens, pieces=pieces)

    def text(self, id: int) -> str:
        """What one id looks like to a reader, in ⟨⟩ what is no text (text/pieces.py)."""
        return self._piece(_checked_id(id), None).marked

    def token(self, id: int) -> str | None:
        """The token as the vocabulary spells it; None where it has no such id."""
        return self.backend.id_to_token(_checked_id(id))

    def token_bytes(self, id: int) -> bytes:
        """A token's bytes, possibly an incomplete character; empty for an id that only the model has."""
        return self.spelling.bytes_of(self.token(id) or "")

    def merges(self, pieces: Iterable[Piece]) -> tuple[list[Merge], int] | None:
        """The merges that made these pieces, in their order, and how many longer pieces no merges made: added tokens,
        bytes, words that the vocabulary takes whole. None where the vocabulary is no BPE."""
        if self._ranks is None:
            return None
        return merges(self._ranks, [None if piece.special else self.token(piece.id) for piece in pieces])

    @cached_property
    def _ranks(self) -> Ranks | None:
        return ranks(self.backend)

    def _id_of(self, role: str) -> int | None:
        return self.backend.token_to_id(self.names[role]) if role in self.names else None

    def _piece(self, id: int, span: Span, padding: bool = False) -> Piece:
        data = self.token_bytes(id)
        return Piece(id, data.decode("utf-8", "replace"), data, span, id in self.special_ids, padding)

    def _row(self, text: str, add_special_tokens: bool) -> list[Piece]:
        encoding = self._encoded(text, add_special_tokens)
        if all(encoding.special_tokens_mask):
            raise BadText(f"the text {text!r}, which holds no token", "at least one", "write a few words")
        spans = self._spans(text, encoding)
        return [self._piece(i, span) for i, span in zip(encoding.ids, spans, strict=True)]

    def _encoded(self, text: str, add_special_tokens: bool) -> Encoding:
        try:
            return self.backend.encode(text, add_special_tokens=add_special_tokens)
        except Exception as error:  # tokenizers raises bare Exception where the unknown token is not in the vocabulary
            found = f"a vocabulary that cannot spell the text {text[:40]!r} ({str(error).rstrip('.')})"
            do = "fetch the model's tokenizer files again, or write other characters"
            raise NoTokenizer(found, "a token for every character, or an unknown token", do) from error

    def _warn_of_second_bos(self, rows: list[list[Piece]]) -> None:
        bos = self.bos_id
        if bos is not None and any([p.id for p in row[:2]] == [bos, bos] and not row[0].span for row in rows):
            token = self.names["bos_token"]
            warn(
                f"the text begins with {token} and the tokenizer puts another before it: two BOS, as transformers "
                "gives them; pass add_special_tokens=False for one"
            )

    def _spans(self, text: str, encoding: Encoding) -> list[Span]:
        """Each piece's span: by its bytes where they spell the text (the offsets of some vocabularies leave out
        leading spaces), else by the tokenizer's offsets (the text was normalized, or the vocabulary has no bytes)."""
        added = encoding.special_tokens_mask
        offsets: list[Span] = [None if a else o for a, o in zip(added, encoding.offsets, strict=True)]
        parts = [b"" if a else self.token_bytes(i) for a, i in zip(added, encoding.ids, strict=True)]
        if b"".join(parts) != text.encode():
            return covering(text, offsets, [part.endswith(b" ") for part in parts])
        character = [n for n, c in enumerate(text) for _ in c.encode()]
        ends = list(accumulate(len(part) for part in parts))
        return [
            (character[end - len(part)], character[end - 1] + 1) if part else None
            for part, end in zip(parts, ends, strict=True)
        ]

    def _padded(self, rows: list[list[Piece]], side: str) -> Tokens:
        pad_id = next((i for i in (self.pad_id, self.eos_id) if i is not None), 0)
        filler, longest = self._piece(pad_id, None, padding=True), max(len(row) for row in rows)
        full = []
        for row in rows:
            padding = [filler] * (longest - len(row))
            full.append(tuple(row + padding if side == "right" else padding + row))
        ids = [[piece.id for piece in row] for row in full]
        mask = [[int(not piece.padding) for piece in row] for row in full]
        return Tokens.from_ids(ids, mask, tuple(full))


def _checked(texts: str | Sequence[str]) -> list[str]:
    listed = [texts] if isinstance(texts, str) else texts
    if not isinstance(listed, list | tuple) or not all(isinstance(text, str) for text in listed):
        kind = (
            type(texts).__name__
            if not isinstance(listed, list | tuple)
            else f"a {type(texts).__name__} of other things"
        )
        raise BadArgument(f"{kind} for a text", "a str or a list of str", "pass the text itself")
    if not listed:
        raise BadArgument("no texts", "at least one", "pass a text")
    for number, text in enumerate(listed, 1):
        if not text:
            which = "an empty text" if len(listed) == 1 else f"an empty text (number {number} of {len(listed)})"
            raise BadText(which, "at least one character", "write a few words")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            found = f"half a surrogate pair (character {error.start} of {text[:20]!r})"
            raise BadText(found, "text that can be written as UTF-8", "mend the text's encoding") from error
    return list(listed)


def _check_lengths(lengths: list[int], context: int | None) -> None:
    longest = max(lengths)
    if context is not None and longest > context:
        which = "" if len(lengths) == 1 else f" (number {lengths.index(longest) + 1} of {len(lengths)})"
        found = f"a text of {longest} tokens{which}"
        raise BadText(found, f"at most {context}, the model's context", "shorten the text")


def _checked_id(id: Any) -> int:
    number = whole(id)
    if number is None or not 0 <= number < MOST_IDS:
        raise BadArgument(f"the id {id!r}", "ids from 0 up", "pass an id of the vocabulary")
    return number
