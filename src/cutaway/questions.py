"""The questions one can ask of a model: methods of LM, each a call of the analysis that answers it.

It knows a decoder, its checkpoint, and how texts become tokens; it does not know how a question is answered or drawn.
"""

import platform
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from typing import SupportsIndex

from torch import Tensor

from cutaway.analysis.certificate import Certificate, certify
from cutaway.analysis.damage import Damage, damage, require_full_precision
from cutaway.analysis.effect import Effect, effect
from cutaway.analysis.transformers_parity import against_transformers
from cutaway.edit.recipe import Edits, edits_of
from cutaway.explain.why import Why, why
from cutaway.ground.display import Displayed
from cutaway.ground.errors import BadArgument
from cutaway.ground.whole import require_whole
from cutaway.model.decoder import Decoder
from cutaway.quant.formats import check_mode
from cutaway.text.pieces import Tokens
from cutaway.text.tokenizer import Tokenizer
from cutaway.trace.run import run
from cutaway.trace.trace import Trace
from cutaway.weights.checkpoint import Checkpoint
from cutaway.weights.load import load_decoder
from cutaway.weights.progress import Progress

CHECKED = ("The sun rises in the east", "I love")  # what `check` runs on, where nothing else is given
Texts = str | Sequence[str] | Tensor | Tokens


class Questions(Displayed):
    """What LM inherits: it has the model and `tokens`."""

    def __init__(self, decoder: Decoder, checkpoint: Checkpoint, name: str) -> None:
        self.decoder, self.checkpoint, self.name = decoder, checkpoint, name

    def tokens(self, texts: Texts, add_special_tokens: bool = True) -> Tokens:
        """Texts as Tokens on the model's device."""
        raise NotImplementedError

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        raise NotImplementedError

    def effect(self, texts: Texts, edits: Edits) -> Effect:
        """What the edits do to the next token after each text: the likeliest before and after, and KL in nats."""
        tokens = self.tokens(texts)
        before, after = (
            run(self.decoder, tokens, "logits", edits=each, positions=-1)["logits"][:, 0]
            for each in ([], edits_of(edits, self.decoder.config))
        )
        return effect(before, after)

    def damage(
        self,
        texts: Texts,
        quantize: str = "int8",
        *,
        suggest: int = 3,
        limit: int = 128,
        add_special_tokens: bool = True,
        progress: Progress | None = None,
    ) -> Damage:
        """What each layer's rounding does to the next-token distribution, and which layers to `keep`.

        This model is in full precision; its layers in 8 bits are those that load(quantize=...) makes of its files.
        suggest: how many layers to name. limit: tokens read in all, the first ones of each text; a layer costs about
        half a pass over them. Raises BadArgument for a model in 8 bits or an unknown mode, BadText for fewer than 2
        tokens. What the figures mean, and when to trust them: analysis/damage.py.
        """
        check_mode(quantize)
        require_full_precision(self.decoder)
        limit = require_whole("limit", limit, 2, "pass for example limit=128")
        suggest = require_whole("suggest", suggest, 1, "pass for example suggest=3")
        if not isinstance(texts, Tensor | Tokens):  # texts may be longer than the context: only their beginning is read
            texts = self.tokenizer.tokenize(texts, add_special_tokens=add_special_tokens)
        tokens = texts if isinstance(texts, Tokens) else self.tokens(texts)
        tokens = self.tokens(tokens.first(max(2, limit // len(tokens.ids))))
        dtype = self.decoder.get_parameter("blocks.0.ln1.weight").dtype
        where = self.decoder.embed.token.weight.device
        int8 = load_decoder(self.checkpoint, dtype=dtype, device=where, quantize=quantize, progress=progress)
        return damage(self.decoder, int8, tokens, suggest=suggest, progress=progress)

    def check(self, texts: Texts | None = None, *, against: str | None = None) -> Certificate:
        """The certificate: what every site of this model means, proved on at least two texts (two short ones of ours).

        against: "transformers" compares every block and the logits with its eager pass on the same files, too; this
        wants a model in full precision. Raises BadArgument for anything else.
        """
        if against not in (None, "transformers"):
            raise BadArgument(f"against={against!r}", '"transformers"', "pass that, or nothing")
        tokens = self.tokens(CHECKED if texts is None else texts)
        if len(tokens.ids) < 2 or not tokens.padded:
            found = f"{len(tokens.ids)} texts, padded: {tokens.padded}"
            raise BadArgument(found, "at least two texts of unequal lengths", "pass two texts")
        lines = list(certify(self.decoder, tokens, self.checkpoint))
        if against is not None:
            lines += against_transformers(self.decoder, self.checkpoint.path, tokens)
        versions = {name: version(name) for name in ("cutaway", "torch", "transformers")}
        return Certificate(self.name, tuple(lines), versions | {"python": platform.python_version()})

    def why(self, trace: Trace, site: str, *index: SupportsIndex) -> Why:
        """What made one number of a trace, an index on each axis of its site: see explain/why.py."""
        return why(trace, self.decoder, site, *index)
