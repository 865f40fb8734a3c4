"""Reads a SentencePiece model file (`tokenizer.model`): its pieces, and its settings of training and normalizing.

It does not know how a text is split by them, nor the other files of a folder. The format is the protocol buffer
sentencepiece_model.proto of SentencePiece; fields that change no id are skipped.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

Value = int | bytes


class Kind(IntEnum):
    """What a piece is (ModelProto.SentencePiece.Type)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Method(IntEnum):
    """How the pieces were found, hence how a text is split (TrainerSpec.ModelType)."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHAR = 4


@dataclass(frozen=True)
class SentencePieces:
    """pieces, scores and kinds by id. roles: role → id. charsmap: the compiled normalization rules, empty for none. The
    rest are the file's own settings, under their own names."""

    pieces: list[str]
    scores: list[float]
    kinds: list[Kind]
    method: Method
    byte_fallback: bool
    whitespace_as_suffix: bool
    roles: dict[str, int]
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool


def read_sentencepiece(data: bytes) -> SentencePieces:
    """The model in a file's bytes. Raises ValueError for bytes that are no such file."""
    pieces: list[tuple[str, float, Kind]] = []
    specs: dict[int, dict[int, Value]] = {2: {}, 3: {}}  # TrainerSpec and NormalizerSpec by their field numbers
    for number, value in _fields(data):
        if number == 1:
            pieces.append(_piece(value))
        elif number in specs:
            specs[number] |= dict(_fields(_bytes(value)))
    if not pieces or not all(specs.values()):  # the settings follow the pieces, so a truncated file lacks them
        raise ValueError("a SentencePiece model that ends too early")
    if len({piece for piece, _, _ in pieces}) != len(pieces):
        raise ValueError("a piece under two ids")
    trainer, normalizer = specs[2], specs[3]
    ids = {"unk_token": _signed(trainer.get(40, 0)), "bos_token": _signed(trainer.get(41, 1))}
    ids |= {"eos_token": _signed(trainer.get(42, 2)), "pad_token": _signed(trainer.get(43, -1))}
    return SentencePieces(
        pieces=[piece for piece, _, _ in pieces],
        scores=[score for _, score, _ in pieces],
        kinds=[kind for _, _, kind in pieces],
        method=Method(trainer.get(3, Method.UNIGRAM)),
        byte_fallback=bool(trainer.get(35, 0)),
        whitespace_as_suffix=bool(trainer.get(24, 0)),
        roles={role: id_ for role, id_ in ids.items() if 0 <= id_ < len(pieces)},
        charsmap=_bytes(normalizer.get(2, b"")),
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
        escape_whitespaces=bool(normalizer.get(5, 1)),
    )


def _piece(value: Value) -> tuple[str, float, Kind]:
    fields = dict(_fields(_bytes(value)))
    score = _bytes(fields.get(2, bytes(4)))
    if len(score) != 4:
        raise ValueError("a score that is no float")
    return _bytes(fields.get(1, b"")).decode(), struct.unpack("<f", score)[0], Kind(fields.get(3, Kind.NORMAL))


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """(field number, value) of one message: a number, or bytes for everything that has a length."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        size, at = _varint(data, at) if wire == 2 else ({1: 8, 5: 4}.get(wire, 0), at)
        if number == 0 or wire not in (1, 2, 5) or at + size > len(data):
            raise ValueError("bytes that are no SentencePiece model, or only a part of one")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while shift < 64 and at < len(data):
        byte = data[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number that does not end")


def _bytes(value: Value) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes were due")
    return value


def _signed(value: Value) -> int:
    """An int32 as protocol buffers write it: negative numbers take all 64 bits."""
    if not isinstance(value, int):
        raise ValueError("bytes where a number was due")
    return value - (1 << 64) if value >> 63 else value
