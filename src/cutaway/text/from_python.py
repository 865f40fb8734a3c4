"""A tokenizer of transformers that is Python code (CTRL's, ByT5's, GPT-SW3's), with the tokenizers library's interface.

Offsets are found in the text, since such code gives none. It does not know the folder that it came from.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tokenizers import AddedToken


class Encoded(NamedTuple):
    """What Tokenizer reads of a tokenizers.Encoding."""

    ids: list[int]
    special_tokens_mask: list[int]
    offsets: list[tuple[int, int]]


class PythonBackend:
    """As much of tokenizers.Tokenizer as Tokenizer calls. Ids and texts are those that transformers' object gives."""

    def __init__(self, loaded: Any) -> None:
        self.loaded = loaded
        specials = set(loaded.all_special_ids)
        self.added = {id: AddedToken(str(t), special=id in specials) for id, t in loaded.added_tokens_decoder.items()}
        self.added |= {id: AddedToken(loaded.convert_ids_to_tokens(id), special=True) for id in specials}

    def encode(self, text: str, add_special_tokens: bool = True) -> Encoded:
        bare = self.loaded(text, add_special_tokens=False).input_ids
        ids = self.loaded(text).input_ids if add_special_tokens else bare
        before = next((n for n in range(len(ids) - len(bare) + 1) if ids[n : n + len(bare)] == bare), 0)
        spans = iter(aligned(text, [self.decode([id], skip_special_tokens=False) for id in bare]))
        added = [not before <= n < before + len(bare) for n in range(len(ids))]
        return Encoded(list(ids), list(map(int, added)), [(0, 0) if each else next(spans) for each in added])

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        known = [id for id in ids if self.id_to_token(id) is not None]
        options = {"skip_special_tokens": skip_special_tokens, "clean_up_tokenization_spaces": False}
        return self.loaded.decode(known, **options) if known else ""

    def join(self, tokens: Sequence[str]) -> str:
        """The text of tokens."""
        ids = [id for token in tokens if (id := self.token_to_id(token)) is not None]
        return self.decode(ids, skip_special_tokens=False)

    def id_to_token(self, id: int) -> str | None:
        if id in self.added:
            return self.added[id].content
        return self.loaded.convert_ids_to_tokens(id) if id < self.get_vocab_size(with_added_tokens=True) else None

    def token_to_id(self, token: str) -> int | None:
        return self.loaded.convert_tokens_to_ids(token)

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        return len(self.loaded) if with_added_tokens else self.loaded.vocab_size

    def get_added_tokens_decoder(self) -> dict[int, AddedToken]:
        return dict(self.added)

    def to_str(self) -> str:
        """What the tokenizers library writes, as far as it is known: no merges."""
        return '{"model": {"type": "Python"}}'

    def no_truncation(self) -> None:
        """Nothing is cut: encode asks for no truncation."""

    def no_padding(self) -> None:
        """Nothing is padded: encode asks for no padding."""


def aligned(text: str, parts: Sequence[str]) -> list[tuple[int, int]]:
    """Where parts stand in a text, in order; what is not found there shares the characters between its neighbours."""
    lowered = text.lower() if len(text.lower()) == len(text) else text
    found: list[tuple[int, int] | None] = []
    at, missed = 0, 0
    for part in (part.strip() for part in parts):
        start = max(text.find(part, at), lowered.find(part.lower(), at)) if part else -1
        sound = start >= 0 and (missed or not text[at:start].strip())
        found.append((start, start + len(part)) if sound else None)
        at, missed = (start + len(part), 0) if sound else (at, missed + 1)
    spans: list[tuple[int, int]] = []
    for n, span in enumerate(found):
        following = next((later[0] for later in found[n:] if later), len(text))
        spans.append(span or (spans[-1][1] if n and found[n - 1] else spans[-1][0] if n else 0, following))
    return spans
