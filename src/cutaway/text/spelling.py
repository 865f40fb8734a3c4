"""How a vocabulary spells bytes in its tokens: the byte alphabet of GPT-2, or SentencePiece with byte fallback.

It does not know a text, nor where the vocabulary came from. What a token stands for follows the vocabulary's own
decoder, so that joined bytes and decoded ids never disagree.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer as Backend

from cutaway.ground.errors import NoTokenizer

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


@dataclass(frozen=True)
class Spelling:
    """byte_level: GPT-2's alphabet, else SentencePiece's. byte_fallback: <0xE2> is a byte. strips: leading spaces
    that decoding drops, because encoding put them there."""

    byte_level: bool
    byte_fallback: bool = False
    strips: int = 0

    def bytes_of(self, token: str) -> bytes:
        """What a token stands for, possibly half a character."""
        if self.byte_level:
            known = all(character in _ALPHABET for character in token)
            return bytes(_ALPHABET[character] for character in token) if known else token.encode()
        if self.is_byte(token):
            return bytes.fromhex(token[3:5])
        return token.replace(SPACE, " ").encode()

    def is_byte(self, token: str) -> bool:
        """Whether a token is one raw byte by SentencePiece's byte fallback."""
        return self.byte_fallback and _BYTE.fullmatch(token) is not None


def spelling_of(backend: Backend) -> Spelling:
    """The spelling that a tokenizer's decoder undoes. Raises NoTokenizer for a decoder that is neither of the two."""
    pickled: Any = backend.decoder.__getstate__() if backend.decoder else '{"type": "no decoder"}'
    state: dict[str, Any] = json.loads(pickled)
    if state["type"] == "ByteLevel":
        return Spelling(byte_level=True)
    steps: list[dict[str, Any]] = state.get("decoders", [state])
    kinds = [step["type"] for step in steps]
    strip = steps[-1] if kinds[-1] == "Strip" else {"content": " ", "start": 0, "stop": 0}
    spaces = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    known = kinds in (["Replace", "ByteFallback", "Fuse", "Strip"], ["Replace", "ByteFallback", "Fuse"])
    if known and steps[0] == spaces and strip["content"] == " " and not strip["stop"]:
        return Spelling(byte_level=False, byte_fallback=True, strips=strip["start"])
    expected = "a byte-level vocabulary (GPT-2's kind) or SentencePiece with byte fallback (Llama 2's kind)"
    raise NoTokenizer(f"a tokenizer that decodes by {', '.join(kinds)}", expected, "use a model of those kinds")
