"""StreamDecoder: ids one by one to text, never half a character, never a character that could still change.

It does not know which model writes the ids, nor when it stops.
"""

import codecs

from cutaway.text.tokenizer import Tokenizer


class StreamDecoder:
    """Joined, what `push` and the final `flush` return is what `Tokenizer.decode` makes of all ids at once."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._to_strip = tokenizer.spelling.strips
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._run = b""  # bytes of byte-fallback tokens in a row

    def push(self, id: int) -> str:
        """The new text that this id settles: empty for special tokens and for half a character."""
        token = self._tokenizer.token(id)
        if token is None or id in self._skipped:
            return ""
        spelling = self._tokenizer.spelling
        data = spelling.bytes_of(token)
        if spelling.byte_level:
            return self._utf8.decode(data)
        if spelling.is_byte(token):
            self._run += data  # held back: one wrong byte later on would spoil the whole run
            return ""
        return self._stripped(self._end_run() + data.decode())

    def flush(self) -> str:
        """The rest: incomplete bytes as U+FFFD. Nothing may be pushed after it."""
        if self._tokenizer.spelling.byte_level:
            return self._utf8.decode(b"", final=True)
        return self._stripped(self._end_run())

    def _end_run(self) -> str:
        """A run of byte-fallback tokens is text only as a whole; else each byte is one U+FFFD, as in tokenizers."""
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
