"""KeptCache: a cache that outlives its run, with the ids that it has read, so that a fork of the text rewinds it.

One run at a time has the cache. It knows ids and slots; it does not know how a token is chosen, nor what an edit does.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from cutaway.model.cache import Cache
from cutaway.model.decoder import Decoder
from cutaway.quant.versions import version_of


class KeptCache:
    """Empty at first; `take` lends the cache to a run of one text, and `give` has it back with what was read.

    edits: those of the runs that filled it, as the same objects; values under other edits, or of other weights, are
    read again.
    """

    def __init__(self) -> None:
        self.cache: Cache | None = None
        self.ids: list[int] = []
        self.edits: tuple[Any, ...] = ()
        self.rewound = (0, 0)  # tokens held before the last `take`, and how many of them were kept
        self._version = (0, 0)  # of the weights

    @property
    def nbytes(self) -> int:
        """Bytes of its keys and values, unused slots included; 0 while a run has them."""
        stored = [] if self.cache is None else [*self.cache.keys, *self.cache.values]
        return sum(tensor.nbytes for tensor in stored if tensor is not None)

    def take(
        self, decoder: Decoder, prompt: Sequence[int], new: Sequence[int], capacity: int, edits: Sequence[Any]
    ) -> Cache:
        """A cache of that capacity, rewound to what it has read of prompt and new ids: the prompt at least, or nothing.

        One of its own for a run that begins while another has the kept one, and where longrope would turn the kept keys
        by other angles.
        """
        cache, version = self.cache, (id(decoder), version_of(decoder.modules()))
        self.cache = None
        self.rewound = (0 if cache is None else len(self.ids), 0)
        same = len(edits) == len(self.edits) and all(a is b for a, b in zip(edits, self.edits, strict=True))
        if cache is None or not same or version != self._version or _turns(decoder, cache.capacity, capacity):
            return Cache(decoder.config.n_layers, 1, capacity)
        both = zip([*prompt, *new[:-1]], self.ids, strict=False)  # the newest is read by the next pass
        read = len(list(takewhile(lambda pair: pair[0] == pair[1], both)))
        kept = read if new and read >= len(prompt) else 0
        cache.rewind(kept)
        self.rewound = (len(self.ids), kept)
        cache.grow(capacity)
        return cache

    def give(self, decoder: Decoder, cache: Cache, ids: Sequence[int], edits: Sequence[Any]) -> None:
        """What a run has read; ids: of its filled slots."""
        self.cache, self.ids, self.edits = cache, list(ids), tuple(edits)
        self._version = (id(decoder), version_of(decoder.modules()))


def _turns(decoder: Decoder, one: int, other: int) -> bool:
    """Whether longrope has other frequencies for a cache of the other capacity."""
    borders = [rope.original_context for rope in decoder.config.ropes if rope.kind == "longrope"]
    return any((one > border) != (other > border) for border in borders)
