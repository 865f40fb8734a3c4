"""LM, the front door: a model with its tokenizer, and what one can ask of it.

Short methods that call the floors below; it computes nothing itself, and prints nothing.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cutaway.analysis.heads import Roles
from cutaway.by_hand import ByHand
from cutaway.edit.recipe import Edits, edits_of
from cutaway.edit.recipe import write as write_recipe
from cutaway.edit.weights import Change, changed
from cutaway.generating import Generating
from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument, NoTokenizer
from cutaway.ground.select import Selection
from cutaway.ground.sites import all_sites
from cutaway.ground.whole import indexes, require_whole
from cutaway.keeping import Keeping
from cutaway.model import architecture
from cutaway.quant import native, natively
from cutaway.quant.explain import int8_layers
from cutaway.questions import Texts
from cutaway.questions.base import path_of
from cutaway.sample.published import published_settings
from cutaway.text.padding import fitting, tokens_of_ids
from cutaway.text.pieces import Tokens
from cutaway.text.tokenizer import Tokenizer
from cutaway.trace.plan import Plan
from cutaway.trace.run import Where, chosen_sites, planned, run
from cutaway.trace.trace import Trace
from cutaway.trace.view import View, view, view_plan
from cutaway.weights.adapter import as_changes
from cutaway.weights.files.lora import open_adapter
from cutaway.weights.hub import resolve
from cutaway.weights.opening import AUTO, dtype_of
from cutaway.weights.progress import Progress


def load(
    model: str | Path | nn.Module | None = None,
    *,
    tokenizer: Any = None,
    quantize: str | None = AUTO,
    keep: Sequence[str] = (),
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    offline: bool = False,
    progress: Progress | None = None,
    threads: int | None = None,
) -> "LM":
    """The model of that name, ready to run; or a transformers model that is in memory, whose weights are copied.

    model: a hub id, a local folder, a .gguf file, None for the default model (SmolLM2-135M-Instruct), or a
        PreTrainedModel of a supported family. A LoRA adapter's folder or id is its base with the adapter merged.
    tokenizer: in place of the files' own, and for a model in memory: transformers' tokenizer, or a folder.
    quantize: "int8" (weights as GGUF's Q8_0, activations in 16 bits), "llm-int8" (LLM.int8(), outliers per token),
        "llm-int8-pooled" (outlier columns of a call pooled, as in bitsandbytes), None (full precision), "auto" (as a
        folder was saved, else int8).
    keep: layers, by name, that stay in full precision, such as ["lm_head"].
    dtype: of the values between the layers; float32 on a CPU, bfloat16 on a GPU that has it, else float16.
    device: "cpu", "cuda", "cuda:1"; the first GPU if there is one.
    offline: True uses no network: files that are not on this machine raise ModelNotFound.
    progress: progress(done, total, what), called while files are fetched and read, in bytes.
    threads: of the whole process from now on; else at most one a physical core that it may use (quant/threads.py).

    Raises the errors of ground/errors.py: ModelNotFound, DownloadFailed, BadCheckpoint, UnsupportedModel, BadArgument.
    """
    return LM.opened(model, tokenizer=tokenizer, quantize=quantize, keep=keep, dtype=dtype, device=device,
                     offline=offline, progress=progress, threads=threads)  # fmt: skip


class LM(Keeping, ByHand, Generating):
    """A loaded language model: text in, every value in view, text out."""

    @property
    def config(self) -> DecoderConfig:
        """The facts of the model: sizes, kinds, places."""
        return self.decoder.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.embed.token.weight.device

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, opened at its first use: ids run without one. Raises NoTokenizer."""
        if self.checkpoint.in_memory:
            found = "a model from memory without a tokenizer"
            raise NoTokenizer(found, "its tokenizer beside it", "pass tokenizer= to load, or ids instead of texts")
        if self.checkpoint.gguf_metadata is not None and self.checkpoint.tokenizer_path == self.checkpoint.path:
            return Tokenizer.from_gguf(self.checkpoint.gguf_metadata)
        return Tokenizer.from_folder(self.checkpoint.tokenizer_path, self.checkpoint.model_type)

    @property
    def sites(self) -> list[str]:
        """Names of all values of this model, in the order of the forward pass."""
        return list(all_sites(self.config))

    def __str__(self) -> str:
        """The architecture: modules, shapes, dtypes, parameters, bytes; how it samples; what else should be known."""
        settings = ", ".join(f"{name}={value!r}" for name, value in self.sampling.items())
        ends = ", ".join(f"{self.token_text(id)} (id {id})".strip() for id in sorted(self.eos_ids))
        on_cpu = self.device.type in ("cpu", "meta") and int8_layers(self.decoder)  # meta: read from config.json alone
        stored = self.checkpoint.stored
        said = [f"{self.checkpoint.path.name} says that it stores {stored}; read exactly"] if stored else []
        said += [f"8-bit layers are computed by {native.engine()}"] if on_cpu else []
        said += [natively.sentence(self.decoder)]
        said += [f"a text ends at {ends}"] if ends else []
        said += [f"generation_config.json, obeyed where you say nothing: {settings}"] if settings else []
        lines = [part for line in [*said, *self.notes] for part in textwrap.wrap(line, 80, subsequent_indent="  ")]
        return "\n".join([self.name, architecture.table(self.decoder), *([""] if lines else []), *lines])

    def __repr__(self) -> str:
        return f"<LM {self.name}: {architecture.facts(self.config)}; print it for its modules>"

    @property
    def notes(self) -> list[str]:
        """What was decided or passed over while the model was opened, a sentence each."""
        of_tokenizer = [*self.tokenizer.notes, *self._misfits()] if self.has_tokenizer else []
        return [*self.checkpoint.notes, *of_tokenizer, *published_settings(self.checkpoint.generation)[1]]

    def _misfits(self) -> Iterator[str]:
        """Where the tokenizer and the model's own files disagree."""
        rows, count, eos = self.config.vocab_size, self.tokenizer.vocab_size, self.tokenizer.eos_id
        if count > rows:
            yield f"the tokenizer has {count} tokens and the embedding {rows} rows: ids from {rows} on cannot be read"
        if eos is not None and eos not in self.eos_ids:
            yield f"the tokenizer's end, {self.token_text(eos)} (id {eos}), is none of the model's: it ends no text"

    def tokenize(
        self,
        texts: str | Sequence[str],
        *,
        padding_side: Literal["right", "left"] = "right",
        add_special_tokens: bool = True,
    ) -> Tokens:
        """Pieces, ids, mask and positions [B, T].

        texts: a string, or a list of strings, shorter ones padded to the longest. padding_side: "right" or "left".
        add_special_tokens: False leaves the text as it stands, without the BOS or EOS that the tokenizer would add.
        Raises BadText for an empty text or one beyond the context.
        """
        return self.tokenizer.tokenize(
            texts, padding_side=padding_side, add_special_tokens=add_special_tokens, context=self.config.n_positions
        )

    def logits(self, texts: Texts, *, add_special_tokens: bool = True) -> Tensor:
        """Logits [B, T, V] after every position."""
        with torch.inference_mode():
            return self.decoder(self.tokens(texts, add_special_tokens))

    def trace(
        self,
        texts: Texts,
        sites: Selection = "*",
        *,
        edits: Edits = (),
        positions: int | Sequence[int] | None = None,
        dtype: str | torch.dtype | None = None,
        to: Where = None,
        until: str | None = None,
        grad: bool = False,
        budget: int | float | str | None = None,
        add_special_tokens: bool = True,
    ) -> Trace:
        """The values of one pass at the chosen sites.

        texts: a string, a list of strings, ids, or Tokens.
        sites: all of them, a pattern ("blocks.*.attn.pattern"), a list of patterns, or a predicate of a name. The pass
            ends at the last of them; what comes after is not computed.
        edits: done on the way, and what is recorded is what they leave; Edits, or a recipe's file.
        positions: only these of each text, from 0 or from -1 back; None for all.
        dtype: what the values are kept in, if not their own.
        to: "cpu", a GPU, "disk" (a mapped file, for traces larger than the memory) or a folder for that file; None
            leaves them beside the weights.
        until: a site after which the pass ends.
        grad: True keeps what gradients need, so that torch.autograd.grad works between any two recorded values.
        budget: bytes, or "2 GB": raises BadArgument before the pass where the trace would take more (see `plan`).
        add_special_tokens: as in `tokenize`.

        Raises BadText for an empty text or one beyond the context, BadArgument for a site, a position or an edit that
        is none of this model's.
        """
        wanted = indexes("positions", positions, signed=True, distinct=False)
        kept_as = None if dtype is None else dtype_of(dtype, self.device)
        tokens = self._spelled(self.tokens(texts, add_special_tokens))
        trace = run(
            self.decoder, tokens, sites, edits=edits_of(edits, self.config),
            positions=wanted, dtype=kept_as, to=to, until=until, grad=grad, budget=budget,
        )  # fmt: skip
        return replace(trace, model=self.name)

    def view(
        self,
        texts: Texts,
        *,
        edits: Edits = (),
        budget: int | float | str | None = None,
        add_special_tokens: bool = True,
    ) -> View:
        """One pass to look around in, of long texts too: a trace that keeps little, and of which any value can be read.

        view["blocks.3.attn.z"] is the value of `trace`, bit for bit, computed again when it is read; view.head(5, 3)
        one head's scores, pattern and z. Of 1,000 tokens of the default model 190 MB are kept, where a trace of every
        site takes 3.7 GB. Also there: thumbnails, sizes and roles, of every head and block (trace/view.py).

        texts, edits, budget, add_special_tokens and errors: as in `trace`.
        """
        tokens = self._spelled(self.tokens(texts, add_special_tokens))
        roles = Roles(tokens)
        found = view(self.decoder, tokens, edits=edits_of(edits, self.config), watch=roles, budget=budget)
        return replace(found, model=self.name, roles=roles.by_name())

    def plan(
        self,
        texts: Texts,
        sites: Selection = "*",
        *,
        positions: int | Sequence[int] | None = None,
        dtype: str | torch.dtype | None = None,
        to: Where = None,
        until: str | None = None,
        max_new_tokens: int = 1,
        view: bool = False,
    ) -> Plan:
        """What a trace would cost in bytes, before it runs.

        texts, sites, positions, dtype, to, until: as in `trace`. max_new_tokens: that many new tokens in `generate`.
        view: True for what `view` keeps of the texts instead; raises BadArgument beside any of the others.
        """
        if view is True:
            asked = (sites, positions, dtype, to, until, max_new_tokens)
            if asked != ("*", None, None, None, None, 1):
                do = "leave them out, or leave view out for what a trace would take"
                raise BadArgument("view=True beside arguments of a trace", "the texts alone, as a view keeps", do)
            return view_plan(self.decoder, self.tokens(texts))
        wanted = indexes("positions", positions, signed=True, distinct=False)
        kept_as = None if dtype is None else dtype_of(dtype, self.device)
        chosen = chosen_sites(self.config, sites, until)
        tokens = self.tokens(texts)
        new = require_whole("max_new_tokens", max_new_tokens, 1, "pass for example max_new_tokens=50")
        return planned(self.decoder, tokens, chosen, positions=wanted, dtype=kept_as, to=to, new=new)

    def save_edits(self, edits: Edits, path: str | Path) -> None:
        """Write a recipe for models like this one: `edits=` takes its path, and so does --edits."""
        write_recipe(path_of("path", path), edits_of(edits, self.config), self.config)

    @contextmanager
    def edited(self, weights: Mapping[str, Change]) -> Iterator["LM"]:
        """While this lasts, the model has these weights: {"blocks.3.W_O": a matrix, or (A, B) whose product is added}.

        Its own are back afterwards. Names are those of the formulas in ground/sites.py; W is [outputs, inputs].
        """
        with changed(self.decoder, weights):
            yield self

    def adapter(self, folder: str | Path) -> dict[str, Change]:
        """A LoRA adapter as changes of this model's matrices: on within `with lm.edited(lm.adapter(folder)):`.

        The matrices of an 8-bit model are then rounded a second time; `load(folder)` merges before rounding. Raises
        UnsupportedModel for a setting that is not computed and for changes of other weights, BadCheckpoint where it
        is another model's.
        """
        return as_changes(self.checkpoint, open_adapter(resolve(str(path_of("folder", folder)))))

    def tokens(self, texts: Texts, add_special_tokens: bool = True) -> Tokens:
        """Whatever stands for texts, as Tokens on the model's device. Ids without a mask: see text/padding.py."""
        if isinstance(texts, Tokens):
            tokens = texts
        elif isinstance(texts, Tensor):
            tokens = tokens_of_ids(texts, self.checkpoint.pad_id, self.checkpoint.bos_id, self.checkpoint.eos_ids)
        else:
            tokens = self.tokenize(texts, add_special_tokens=add_special_tokens)
        return fitting(tokens, self.config.vocab_size, self.config.n_positions).to(self.device)
