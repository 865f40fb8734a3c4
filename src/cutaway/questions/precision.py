"""How exact is the model, and what do 8 bits cost: comparison, damage by layer, perplexity, the certificate.

Methods of LM. It does not know how a question is answered, nor how a finding is drawn.
"""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from cutaway.analysis import precisions
from cutaway.analysis.certificate import certify
from cutaway.analysis.damage import damage, require_full_precision
from cutaway.analysis.perplexity import perplexity
from cutaway.analysis.precisions import LAYERS, FullRun, full_run
from cutaway.analysis.transformers_parity import against_transformers
from cutaway.ground.errors import BadArgument
from cutaway.ground.whole import require_whole
from cutaway.model.decoder import Decoder
from cutaway.model.parts import dtype_of
from cutaway.quant.explain import int8_layers, mode_of
from cutaway.quant.formats import check_mode
from cutaway.questions.base import Asked, Texts, require_progress
from cutaway.show.compare import CompareFinding, compare_finding
from cutaway.show.damage import DamageFinding
from cutaway.show.perplexity import PerplexityFinding
from cutaway.show.verdicts import CheckFinding
from cutaway.text.padding import fitting, tokens_of_ids
from cutaway.text.pieces import Tokens
from cutaway.weights.opening import reopened
from cutaway.weights.progress import Progress
from cutaway.weights.save import source_bytes

CHECKED = ("The sun rises in the east", "I love")  # what `check` runs on, where nothing else is given
WINDOW = 2048  # of the published perplexities


class Precision(Asked):
    """Questions about numbers and formats. texts: as in questions/reading.py."""

    def compare(
        self,
        texts: Texts,
        quantize: str | None = None,
        *,
        block: int = 0,
        layer: str = LAYERS[0],
        sites: Sequence[str] = (),
        full: FullRun | None = None,
        add_special_tokens: bool = True,
        progress: Progress | None = None,
    ) -> CompareFinding:
        """Full precision against 8 bits on the same texts: values by site, outliers, the next token, bytes.

        The other of the two is read from this model's files. quantize: the 8-bit mode; None for this model's own, or
        "int8" where it is in full precision. block, layer: whose codes are shown. sites: patterns to compare too. full:
        what `full_run` of the model in full precision gave, so that the two need not be in memory together.
        Source: analysis/compare.py. Raises BadArgument for a folder that holds 8-bit weights only.
        """
        mode = mode_of(self.decoder) or "int8" if quantize is None else quantize
        check_mode(mode)
        require_progress(progress)
        if full is not None and not isinstance(full, FullRun):
            raise BadArgument(f"full={type(full).__name__}", "what lm.full_run(...) gave", "pass that, or nothing")
        if full is None:
            names = self._patterns(sites)
            precisions.layer_name(self.decoder.config, block, layer)  # refused before weights are read
            other = self.decoder if not int8_layers(self.decoder) else self._loaded(None, progress)
            full = full_run(other, self.tokens(texts, add_special_tokens), block, layer, names)
        int8 = self.decoder if mode_of(self.decoder) == mode else self._loaded(mode, progress)
        both = precisions.compare(int8, full)
        return compare_finding(self.name, both, source_bytes(self.checkpoint), self.piece)

    def full_run(
        self,
        texts: Texts,
        *,
        block: int = 0,
        layer: str = LAYERS[0],
        sites: Sequence[str] = (),
        add_special_tokens: bool = True,
    ) -> FullRun:
        """What `compare` needs of this model, in full precision, so that it may be freed before the other is loaded."""
        return full_run(self.decoder, self.tokens(texts, add_special_tokens), block, layer, self._patterns(sites))

    def _patterns(self, sites: Any) -> list[str]:
        if isinstance(sites, str):
            return [sites]
        if not isinstance(sites, list | tuple) or not all(isinstance(site, str) for site in sites):
            do = 'pass for example sites=["*.attn.pattern"]'
            raise BadArgument(f"sites={sites!r}"[:200], "patterns of sites", do)
        return list(sites)

    def _loaded(self, quantize: str | None, progress: Progress | None) -> Decoder:
        """A decoder of this model's files in another precision, on the same device."""
        where, dtype = self.decoder.embed.token.weight.device, self._dtype
        return reopened(self.checkpoint, self.name, quantize=quantize, dtype=dtype, device=where, progress=progress)

    def perplexity(
        self,
        text: Texts,
        *,
        window: int | None = None,
        stride: int | None = None,
        limit: int | None = None,
        add_special_tokens: bool = True,
        progress: Progress | None = None,
    ) -> PerplexityFinding:
        """How surprised the model is by one long text: exp of the mean negative log likelihood of its tokens.

        window: tokens of one pass; None for 2,048, or the context if smaller. stride: tokens from one window's start to
        the next's; None for the window. limit: only the first tokens of the text. Source: analysis/perplexity.py, which
        says when two figures are comparable. Raises BadArgument for several texts, BadText for fewer than 2 tokens.
        """
        config = self.decoder.config
        require_progress(progress)
        if window is None:
            window = min(WINDOW, config.n_positions)
        window = require_whole("window", window, 2, f"pass 2 to {config.n_positions}, the model's context")
        stride = require_whole("stride", window if stride is None else stride, 1, f"pass 1 to {window}, the window")
        if limit is not None:
            limit = require_whole("limit", limit, 2, "choose a larger limit, as the first token is not scored")
        tokens = self._long(text, add_special_tokens)
        if len(tokens.ids) != 1 or tokens.padded:
            raise BadArgument(f"{len(tokens.ids)} texts", "one text, not padded", "join them, or ask of each by itself")
        ids = tokens.ids[0][:limit].to(self.decoder.embed.token.weight.device)
        found = perplexity(self.decoder, ids, window=window, stride=stride, progress=progress)
        bos = bool(tokens.pieces) and int(ids[0]) == self.tokenizer.bos_id
        quantize = mode_of(self.decoder) or "none"
        dtype = str(self._dtype).removeprefix("torch.")
        return PerplexityFinding(**vars(found), quantize=quantize, dtype=dtype, bos=bos, model=self.name)

    def _long(self, texts: Texts, special: bool) -> Tokens:
        """Tokens of texts that may be longer than the context."""
        if isinstance(texts, Tokens):
            tokens = texts
        elif isinstance(texts, Tensor):
            tokens = tokens_of_ids(texts, self.checkpoint.pad_id, self.checkpoint.bos_id, self.checkpoint.eos_ids)
        else:
            tokens = self.tokenizer.tokenize(texts, add_special_tokens=special)
        return fitting(tokens, self.decoder.config.vocab_size, tokens.ids.shape[1])

    @property
    def _dtype(self) -> torch.dtype:
        return dtype_of(self.decoder)

    def damage(
        self,
        texts: Texts,
        quantize: str = "int8",
        *,
        suggest: int = 3,
        limit: int = 128,
        add_special_tokens: bool = True,
        progress: Progress | None = None,
    ) -> DamageFinding:
        """What each layer's rounding does to the next-token distribution, and which layers to `keep`.

        This model is in full precision; its layers in 8 bits are those that load(quantize=...) makes of its files.
        suggest: how many layers to name. limit: tokens read in all, the first ones of each text; a layer costs about
        half a pass over them. Raises BadArgument for a model in 8 bits or an unknown mode, BadText for fewer than 2
        tokens. What the figures mean, and when to trust them: analysis/damage.py.
        """
        check_mode(quantize)
        require_progress(progress)
        require_full_precision(self.decoder)
        limit = require_whole("limit", limit, 2, "pass for example limit=128")
        suggest = require_whole("suggest", suggest, 1, "pass for example suggest=3")
        tokens = self._long(texts, add_special_tokens)  # only their beginning is read
        tokens = self.tokens(tokens.first(max(2, limit // len(tokens.ids))))
        int8 = self._loaded(quantize, progress)
        found = damage(self.decoder, int8, tokens, suggest=suggest, progress=progress)
        dtype = str(self._dtype).removeprefix("torch.")
        return DamageFinding(**vars(found), dtype=dtype, mode=quantize, model=self.name)

    def check(self, texts: Texts | None = None, *, against: str | None = None) -> CheckFinding:
        """The certificate: what every site of this model means, proved on at least two texts (two short ones of ours).

        against: "transformers" compares every block and the logits with its eager pass on the same files, too; this
        wants a model in full precision. Raises BadArgument for anything else.
        """
        if against not in (None, "transformers"):
            raise BadArgument(f"against={against!r}", '"transformers"', "pass that, or nothing")
        if against is not None and self.checkpoint.in_memory:
            do = "save_pretrained it, and check the folder"
            raise BadArgument("a model that came from memory", "files that transformers can load too", do)
        if against is not None and self.checkpoint.adapter is not None:
            do = "check it without --against, or merge it by peft and check that folder"
            raise BadArgument("a model with a LoRA adapter merged into it", "files that transformers loads too", do)
        tokens = self.tokens(CHECKED if texts is None else texts)
        if len(tokens.ids) < 2 or not tokens.padded:
            found = f"{len(tokens.ids)} texts, padded: {tokens.padded}"
            raise BadArgument(found, "at least two texts of unequal lengths", "pass two texts")
        lines = list(certify(self.decoder, tokens, self.checkpoint))
        if against is not None:
            lines += against_transformers(self.decoder, self.checkpoint.path, tokens)
        versions = {name: version(name) for name in ("cutaway", "torch", "transformers")}
        versions |= {"python": platform.python_version()}
        return CheckFinding(model=self.name, lines=tuple(lines), versions=versions)
