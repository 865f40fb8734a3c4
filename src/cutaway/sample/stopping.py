"""StoppingCriteria: which texts of a batch are finished, and why.

It counts tokens and looks for stop strings; it does not know how a token was chosen, nor the decoder.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from cutaway.ground.errors import BadArgument, BadText
from cutaway.sample.settings import Sampling
from cutaway.text.pieces import Tokens

Reason = Literal["eos", "stop", "length", "context"]
Decode = Callable[[list[int]], str]  # with special tokens as they are written: a stop string may hold one


class StoppingCriteria:
    """The new ids of each text, and the reason why it is finished.

    Of several reasons the first of eos, stop string, length, context is given. "context": prompt and new tokens fill
    the decoder's n_positions. At least one token is always chosen, even after a prompt that fills the context.

    Raises BadText for a prompt that is empty or longer than the context; BadArgument where max_length leaves no new
    token, or for stop strings without `decode`.
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
        self.context_left = [max(n_positions - length, 1) for length in self.lengths]
        self.new_ids: list[list[int]] = [[] for _ in self.lengths]
        self.reasons: list[Reason | None] = [None for _ in self.lengths]

    @property
    def finished(self) -> list[bool]:
        """Which texts have ended."""
        return [reason is not None for reason in self.reasons]

    def add(self, ids: Sequence[int]) -> None:
        """One more id for each text; finished texts take none."""
        for row, token in enumerate(ids):
            if self.reasons[row] is None:
                self.new_ids[row].append(token)
                self.reasons[row] = self._reason(row)

    def positions(self) -> list[int]:
        """Position of each text's newest token; a finished text's does not advance, so that it stays in the context."""
        counts = (length + len(new) for length, new in zip(self.lengths, self.new_ids, strict=True))
        return [min(count, self.n_positions) - 1 for count in counts]

    def _reason(self, row: int) -> Reason | None:
        new_ids = self.new_ids[row]
        if new_ids[-1] in self.eos_ids:
            return "eos"
        if self.stop_strings and self.decode is not None and holds_stop_string(new_ids, self.stop_strings, self.decode):
            return "stop"
        if len(new_ids) >= self.limits[row]:
            return "length"
        return "context" if len(new_ids) >= self.context_left[row] else None


def most_new_tokens(tokens: Tokens, settings: Sampling, n_positions: int) -> int:
    """The most tokens that may be chosen for any of the texts."""
    return max(min(settings.new_tokens(n), max(n_positions - n, 1)) for n in tokens.lengths.tolist())


def holds_stop_string(ids: list[int], stop_strings: tuple[str, ...], decode: Decode) -> bool:
    """Whether the text at the end of these ids holds a stop string, which may begin or end inside a token.

    Only a tail is decoded. A new stop string ends in the newest token, so the tail's text before that token must hold
    the rest of it, and the replacement characters at both ends where a character of up to four bytes is cut.
    """
    enough = max(len(stop) for stop in stop_strings) + 8
    count = enough
    while count < len(ids) and len(decode(ids[-count:-1])) < enough:
        count *= 2  # special tokens and incomplete characters decode to nothing
    tail = decode(ids[-count:])
    return any(stop in tail for stop in stop_strings)


def _check_prompt(row: int, length: int, n_positions: int) -> None:
    if length == 0:
        raise BadText(f"text {row} without a token", "at least one token to go on from", "pass a text with words in it")
    if length > n_positions:
        expected = f"at most {n_positions}, this model's context"
        raise BadText(f"text {row} of {length} tokens", expected, "shorten the text, or load a model of longer context")
