"""Which merges of a BPE vocabulary made a text's pieces, in the order in which each piece was made.

A piece was merged from its own characters alone: a merge across its end would have made another piece. So each piece is
merged again by itself, by the vocabulary's own list. It does not know other kinds of vocabularies, which merge nothing.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from tokenizers import Tokenizer as Backend

Ranks = dict[tuple[str, str], int]


@dataclass(frozen=True)
class Merge:
    """One merge, as the vocabulary spells it. rank: its line in the list of merges, lower first. piece: its number."""

    piece: int
    left: str
    right: str
    rank: int

    @property
    def result(self) -> str:
        return self.left + self.right


def ranks(backend: Backend) -> Ranks | None:
    """The merges of a BPE, or None for another kind of vocabulary."""
    model = json.loads(backend.to_str())["model"]
    if model.get("type") != "BPE":
        return None
    pairs = (tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"])
    return {(left, right): rank for rank, (left, right) in enumerate(pairs)}


def merges(known: Ranks, pieces: Iterable[str | None]) -> tuple[list[Merge], int]:
    """The merges of the pieces, as the vocabulary spells them, and how many longer pieces no merges make: added tokens,
    bytes, and words that a vocabulary takes whole. None: a special token."""
    made, whole = [], 0
    for number, piece in enumerate(pieces):
        if piece is None:
            continue
        own = _merged(known, number, piece)
        whole += own is None
        made += own or []
    return made, whole


def _merged(known: Ranks, number: int, piece: str) -> list[Merge] | None:
    """The merges from a piece's characters to the piece; None where they do not lead to it."""
    parts, made = list(piece), []
    while len(parts) > 1:
        rank, at = min((known.get(pair, len(known)), i) for i, pair in enumerate(pairwise(parts)))
        if rank == len(known):
            return None
        made.append(Merge(number, parts[at], parts[at + 1], rank))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return made
