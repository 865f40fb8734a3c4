"""How a vocabulary spells text in its tokens: GPT-2's byte alphabet, SentencePiece's spaces, or its decoder's own way.

It does not know a text, nor where the vocabulary came from. A token's bytes follow the vocabulary's own decoder, so
that the bytes of all tokens and the decoded ids never disagree.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from tokenizers import Tokenizer as Backend

from cutaway.text.from_python import PythonBackend

SPACE = "▁"  # SentencePiece writes spaces as this character
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary (Radford et al. 2019, GPT-2's encoder.py).

    Bytes that print stand for themselves; the others take the characters from U+0100 up, in order.
    """
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + n): byte for n, byte in enumerate(hidden)}


_ALPHABET = byte_alphabet()


# Decoders that read one token at a time, and at most whether it is the first or the last
BY_TOKEN = {"none", "Replace", "Strip", "WordPiece", "BPEDecoder", "Metaspace"}
Kind = Literal["bytes", "pieces", "words", "whole"]


@dataclass(frozen=True)
class Spelling:
    """kind: how text follows from tokens.

    "bytes": GPT-2's alphabet. "pieces": SentencePiece's, each token by itself. "words": by a decoder for which a token
    depends at most on being the first or the last (WordPiece, Metaspace, a suffix, none). "whole": by any other.
    byte_fallback: <0xE2> is a byte. strips: leading spaces that decoding drops, since encoding added them.
    join: the text of tokens, by the vocabulary's decoder.
    """

    kind: Kind
    byte_fallback: bool = False
    strips: int = 0
    join: Callable[[Sequence[str]], str] = field(default="".join, compare=False)

    def bytes_of(self, token: str) -> bytes:
        """A token's bytes inside a text, possibly an incomplete character."""
        if self.kind == "bytes":
            spelled = all(character in _ALPHABET for character in token)
            return bytes(_ALPHABET[character] for character in token) if spelled else token.encode()
        if self.is_byte(token):
            return bytes.fromhex(token[3:5])
        if self.kind == "pieces":
            return token.replace(SPACE, " ").encode()
        return (self._between(token) if self.kind == "words" else self.join([token])).encode() if token else b""

    def is_byte(self, token: str) -> bool:
        """Whether a token is one raw byte by SentencePiece's byte fallback."""
        return self.byte_fallback and _BYTE.fullmatch(token) is not None

    def _between(self, token: str) -> str:
        """The decoded token between two others, with its spaces; by itself where it changes the other two."""
        first, pair, three = (self.join(tokens) for tokens in (["x"], ["x", "x"], ["x", token, "x"]))
        after = pair.removeprefix(first)
        if three.startswith(first) and three.endswith(after) and len(three) >= len(first) + len(after):
            return three[len(first) : len(three) - len(after)]
        return self.join([token])


def spelling_of(backend: Backend | PythonBackend) -> Spelling:
    """The spelling that a tokenizer's decoder undoes."""
    if isinstance(backend, PythonBackend):
        return Spelling("whole", join=backend.join)
    pickled: Any = backend.decoder.__getstate__() if backend.decoder else '{"type": "none"}'
    state: dict[str, Any] = json.loads(pickled)
    steps: list[dict[str, Any]] = state.get("decoders", [state])
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return Spelling("bytes")
    strip = steps[-1] if kinds[-1:] == ["Strip"] else {"content": " ", "start": 0, "stop": 0}
    spaces = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    rest = [kind for kind in kinds[1:] if kind != "ByteFallback"]
    fused = rest in (["Fuse"], ["Fuse", "Strip"]) and kinds.index("Fuse") == len(kinds) - len(rest)
    fallback = "ByteFallback" in kinds
    if fused and steps[0] == spaces and strip["content"] == " " and not strip["stop"]:
        return Spelling("pieces", byte_fallback=fallback, strips=strip["start"])
    join = partial(_join, backend)
    if set(kinds if kinds[-1] != "Fuse" else kinds[:-1]) <= BY_TOKEN:
        return Spelling("words", join=join)
    return Spelling("whole", byte_fallback=fallback, join=join)


def _join(backend: Backend, tokens: Sequence[str]) -> str:
    """As tokenizers decodes: without a decoder, tokens are separated by spaces."""
    return backend.decoder.decode(list(tokens)) if backend.decoder else " ".join(tokens)
