"""Endings: which texts of a batch are over, and why.

It counts tokens and looks for stop strings; it does not know how a token was chosen, nor the decoder.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from cutaway.ground.errors import BadArgument, BadText
from cutaway.sample.settings import Sampling
from cutaway.text.pieces import Tokens

Reason = Literal["eos", "stop string", "length", "context"]
Decode = Callable[[list[int]], str]  # with special tokens as they are written: a stop string may hold one


class Endings:
    """The new ids of each text, and why it is over.

    Where reasons meet, the first of eos, stop string, length, context is given. A text ends by "context" when prompt
    and new tokens fill the decoder's n_positions. At least one token is always chosen: what a prompt that fills the
    context predicts can be seen.

    Raises BadText for a prompt that is empty or longer than the context; BadArgument where max_length leaves no room
    or stop strings come without a way to decode.
    """

    def __init__(
        self, prompt: Tokens, settings: Sampling, n_positions: int, eos_ids: frozenset[int], decode: Decode | None
    ) -> None:
        self.lengths: list[int] = prompt.lengths.tolist()
        for row, length in enumerate(self.lengths):
            _check_prompt(row, length, n_positions)
        if settings.stop_strings and decode is None:
            found = f"stop_strings={list(settings.stop_strings)} without a tokenizer"
            raise BadArgument(found, "a way to turn new ids into text", "pass decode, or use eos_ids")
        self.n_positions, self.eos_ids, self.decode = n_positions, eos_ids, decode
        self.stop_strings = settings.stop_strings
        self.limits = [settings.new_tokens(length) for length in self.lengths]
        self.rooms = [max(n_positions - length, 1) for length in self.lengths]
        self.new_ids: list[list[int]] = [[] for _ in self.lengths]
        self.reasons: list[Reason | None] = [None for _ in self.lengths]

    @property
    def over(self) -> list[bool]:
        """Which texts have ended."""
        return [reason is not None for reason in self.reasons]

    @property
    def most(self) -> int:
        """The most steps that any text may take."""
        return max(min(limit, room) for limit, room in zip(self.limits, self.rooms, strict=True))

    def add(self, ids: Sequence[int]) -> None:
        """One more id for each text; texts that are over take none."""
        for row, token in enumerate(ids):
            if self.reasons[row] is None:
                self.new_ids[row].append(token)
                self.reasons[row] = self._reason(row)

    def positions(self) -> list[int]:
        """Position of each text's newest token. A text that is over stands still, so that it stays in the context."""
        counts = (length + len(new) for length, new in zip(self.lengths, self.new_ids, strict=True))
        return [min(count, self.n_positions) - 1 for count in counts]

    def _reason(self, row: int) -> Reason | None:
        new_ids = self.new_ids[row]
        if new_ids[-1] in self.eos_ids:
            return "eos"
        if self.stop_strings and self.decode is not None and stops(new_ids, self.stop_strings, self.decode):
            return "stop string"
        if len(new_ids) >= self.limits[row]:
            return "length"
        return "context" if len(new_ids) >= self.rooms[row] else None


def stops(ids: list[int], stop_strings: tuple[str, ...], decode: Decode) -> bool:
    """Whether the end of these ids, as text, holds a stop string, across the borders of tokens too.

    Only a tail is decoded. A stop string that was not there a token ago ends in the newest token, so the text before
    that token must be long enough for its beginning, and for the replacement characters that stand at both ends of
    the tail where a character of up to four bytes is cut in two.
    """
    enough = max(len(stop) for stop in stop_strings) + 8
    count = enough
    while count < len(ids) and len(decode(ids[-count:-1])) < enough:
        count *= 2  # special tokens and halves of characters have no text of their own
    tail = decode(ids[-count:])
    return any(stop in tail for stop in stop_strings)


def _check_prompt(row: int, length: int, n_positions: int) -> None:
    if length == 0:
        raise BadText(f"text {row} without a token", "at least one token to go on from", "pass a text with words in it")
    if length > n_positions:
        expected = f"at most {n_positions}, this model's context"
        raise BadText(f"text {row} of {length} tokens", expected, "shorten the text, or load a model of longer context")
