"""StreamDecoder: ids one by one to text, never an incomplete character, never one that could still change.

It does not know which model writes the ids, nor when it stops.
"""

import codecs
from collections.abc import Sequence
from typing import Protocol

from cutaway.text.spelling import Spelling
from cutaway.text.tokenizer import Tokenizer


class StreamDecoder:
    """The concatenated results of `push` and the final `flush` equal `Tokenizer.decode` of all ids at once.

    after: ids of the text before these. A space between the two is then kept, which decoding the new ids by themselves
    would take for the one that SentencePiece puts before a text.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True, after: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        before = [token for id in after if id not in self._skipped and (token := tokenizer.token(id)) is not None]
        self._text: _Stream = STREAMS[tokenizer.spelling.kind](tokenizer.spelling, before[-1:])

    def push(self, id: int) -> str:
        """The new text that this id completes: empty for special tokens and for an incomplete character."""
        token = self._tokenizer.token(id)
        return "" if token is None or id in self._skipped else self._text.push(token)

    def flush(self) -> str:
        """The rest: incomplete bytes as U+FFFD. Nothing may be pushed after it."""
        return self._text.flush()


class _Stream(Protocol):
    def __init__(self, spelling: Spelling, before: list[str]) -> None: ...

    def push(self, token: str) -> str: ...

    def flush(self) -> str: ...


class _Bytes:
    """Byte-level vocabularies: a character comes with its last byte."""

    def __init__(self, spelling: Spelling, before: list[str]) -> None:
        self._spelling = spelling
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: str) -> str:
        return self._utf8.decode(self._spelling.bytes_of(token))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class _Pieces:
    """SentencePiece's vocabularies: each piece by itself, a run of byte-fallback tokens as one."""

    def __init__(self, spelling: Spelling, before: list[str]) -> None:
        self._spelling, self._to_strip = spelling, 0 if before else spelling.strips
        self._run = b""  # bytes of byte-fallback tokens in a row

    def push(self, token: str) -> str:
        data = self._spelling.bytes_of(token)
        if self._spelling.is_byte(token):
            self._run += data  # held back: one invalid byte makes every byte of the run U+FFFD
            return ""
        return self._stripped(self._end_run() + data.decode())

    def flush(self) -> str:
        return self._stripped(self._end_run())

    def _end_run(self) -> str:
        """The text of a run of byte-fallback tokens; each byte is one U+FFFD where one is invalid, as in tokenizers."""
        run, self._run = self._run, b""
        try:
            return run.decode()
        except UnicodeDecodeError:
            return "\ufffd" * len(run)

    def _stripped(self, text: str) -> str:
        """Without the space that SentencePiece puts before a text."""
        while self._to_strip and text:
            if text[0] != " ":
                self._to_strip = 0
            else:
                text, self._to_strip = text[1:], self._to_strip - 1
        return text


class _Words:
    """Vocabularies whose decoder depends on the first or last token: what a token adds to the one before it."""

    def __init__(self, spelling: Spelling, before: list[str]) -> None:
        self._join, self._before = spelling.join, before

    def push(self, token: str) -> str:
        shown = self._join(self._before) if self._before else ""
        text = self._join([*self._before, token])
        self._before = [token]
        return text[len(shown) :]

    def flush(self) -> str:
        return ""


class _Whole:
    """Vocabularies whose decoder may change earlier text: all of it comes at the end."""

    def __init__(self, spelling: Spelling, before: list[str]) -> None:
        self._join, self._before = spelling.join, before
        self._tokens: list[str] = []

    def push(self, token: str) -> str:
        self._tokens.append(token)
        return ""

    def flush(self) -> str:
        if not self._tokens:
            return ""
        before = self._join(self._before) if self._before else ""
        text = self._join([*self._before, *self._tokens])
        return text.removeprefix(before) if text.startswith(before) else self._join(self._tokens)


STREAMS: dict[str, type[_Stream]] = {"bytes": _Bytes, "pieces": _Pieces, "words": _Words, "whole": _Whole}
