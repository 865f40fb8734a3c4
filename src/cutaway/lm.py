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
from torch import Tensor

from cutaway.edit.editor import Editor, sites_of
from cutaway.edit.recipe import Edits, edits_of
from cutaway.edit.recipe import write as write_recipe
from cutaway.edit.weights import Change, changed
from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import NoTokenizer
from cutaway.ground.select import Selection, select
from cutaway.ground.sites import all_sites
from cutaway.ground.whole import indexes, require_whole
from cutaway.model import architecture
from cutaway.model.tap import Chain, Tap, untapped
from cutaway.quant import native
from cutaway.quant.explain import int8_layers
from cutaway.questions import Questions, Texts
from cutaway.questions.base import path_of
from cutaway.sample.generation import Generation, collect, new_ids_of, new_text
from cutaway.sample.loop import generate
from cutaway.sample.published import published_settings, sampling_of
from cutaway.sample.settings import Sampling
from cutaway.sample.step import Step
from cutaway.sample.stopping import most_new_tokens
from cutaway.text.chat import chat_tokens
from cutaway.text.padding import fitting, tokens_of_ids
from cutaway.text.pieces import Tokens
from cutaway.text.stream import StreamDecoder
from cutaway.text.tokenizer import Tokenizer
from cutaway.trace.generation_trace import Recording
from cutaway.trace.plan import Plan
from cutaway.trace.run import Where, chosen_sites, planned, run
from cutaway.trace.trace import Trace
from cutaway.weights.opening import AUTO, dtype_of, open_model
from cutaway.weights.progress import Progress


def load(
    model: str | Path | None = None,
    *,
    quantize: str | None = AUTO,
    keep: Sequence[str] = (),
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    offline: bool = False,
    progress: Progress | None = None,
    threads: int | None = None,
) -> "LM":
    """The model of that name, ready to run.

    model: a hub id, a local folder, a .gguf file, or None for the default model. quantize: "int8" (weights as GGUF's
    Q8_0, activations in 16 bits), "llm-int8" (LLM.int8(), outliers per token), "llm-int8-pooled" (outlier columns of a
    call pooled, as in bitsandbytes), None (full precision), "auto" (as a folder was saved, else int8). keep: layers
    that stay in full precision ("lm_head"). dtype: of the values between the layers; float32 on a CPU, bfloat16 on a
    GPU that has it, else float16. device: the first GPU if there is one. progress(done, total, what): called while
    files are fetched and read. threads: of the whole process from now on; else at most one a physical core that it may
    use (quant/threads.py). Raises the errors of ground/errors.py.
    """
    with torch.inference_mode(False):  # whatever the caller's: gradients may be asked of these weights later
        return LM(*open_model(model, quantize=quantize, keep=keep, dtype=dtype, device=device, offline=offline,
                              progress=progress, threads=threads))  # fmt: skip


class LM(Questions):
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
        if self.checkpoint.gguf_metadata is not None:
            return Tokenizer.from_gguf(self.checkpoint.gguf_metadata)
        return Tokenizer.from_folder(self.checkpoint.path, self.checkpoint.model_type)

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
        said += [f"a text ends at {ends}"] if ends else []
        said += [f"generation_config.json, obeyed where you say nothing: {settings}"] if settings else []
        lines = [part for line in [*said, *self.notes] for part in textwrap.wrap(line, 80, subsequent_indent="  ")]
        return "\n".join([self.name, architecture.table(self.decoder), *([""] if lines else []), *lines])

    def __repr__(self) -> str:
        return f"<LM {self.name}: {architecture.facts(self.config)}; print it for its modules>"

    @cached_property
    def sampling(self) -> dict[str, Any]:
        """The settings that the model's generation_config.json gives: `generate` takes them where you say nothing."""
        settings = published_settings(self.checkpoint.generation)[0]
        return settings if self._has_tokenizer else {n: v for n, v in settings.items() if n != "stop_strings"}

    @cached_property
    def _has_tokenizer(self) -> bool:
        try:
            return bool(self.tokenizer)
        except NoTokenizer:  # ids in, ids out
            return False

    @property
    def notes(self) -> list[str]:
        """What was decided or passed over while the model was opened, a sentence each."""
        of_tokenizer = [*self.tokenizer.notes, *self._misfits()] if self._has_tokenizer else []
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
        """Pieces, ids, mask and positions [B, T]. Raises BadText for an empty text or one beyond the context.

        add_special_tokens=False: the text as it stands, without the BOS or EOS that the tokenizer would add.
        """
        return self.tokenizer.tokenize(
            texts, padding_side=padding_side, add_special_tokens=add_special_tokens, context=self.config.n_positions
        )

    def chat_prompt(self, messages: list[dict[str, Any]]) -> Tokens:
        """The prompt that asks for the next message, by the model's chat template, as Tokens for `generate`.

        messages: [{"role": "user", "content": "Hello"}, ...]. The template writes BOS itself, so no second one is
        added. Raises NoTokenizer without a template, BadArgument where the template refuses.
        """
        return chat_tokens(self.tokenizer, messages, context=self.config.n_positions)

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
        """The values of one pass at the chosen sites: all of them, a pattern, a list of patterns, or a predicate.

        The pass ends at the last of them; what comes after is not computed. edits: done on the way, and what is
        recorded is what they leave; Edits, or a recipe's file. positions: only these of each text, from 0 or from -1
        back. dtype: what the values are kept in, if not their own. to: "cpu", a GPU, "disk" (a mapped file, for
        traces larger than the memory) or a folder for that file; None leaves them beside the weights. until: a site
        after which the pass ends. grad: keep what gradients need, so that torch.autograd.grad works between any two
        recorded values. budget: bytes, or "2 GB": raises BadArgument before the pass where the trace would take more.
        add_special_tokens: as in `tokenize`.
        """
        wanted = indexes("positions", positions, signed=True, distinct=False)
        kept_as = None if dtype is None else dtype_of(dtype, self.device)
        trace = run(
            self.decoder, self.tokens(texts, add_special_tokens), sites, edits=edits_of(edits, self.config),
            positions=wanted, dtype=kept_as, to=to, until=until, grad=grad, budget=budget,
        )  # fmt: skip
        return replace(trace, model=self.name)

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
    ) -> Plan:
        """What `trace` with these arguments would cost in bytes, or `generate` with so many new tokens."""
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

    def stream(
        self,
        texts: Texts,
        *,
        tap: Tap = untapped,
        edits: Edits = (),
        add_special_tokens: bool = True,
        **settings: Any,
    ) -> Iterator[Step]:
        """Steps as they happen; step.text holds what each text gained, never half a character.

        settings: those of sample/settings.py, transformers' own names; where you say nothing, the model's
        generation_config.json does (`lm.sampling`). tap: watches or changes the values of every pass. edits: done in
        every pass. add_special_tokens: as in `tokenize`. Raises the errors of sample/loop.py and edit/editor.py.
        """
        tokens, wishes = self.tokens(texts, add_special_tokens), self.settings(settings)
        return self._edited_stream(tokens, wishes, tap, self._editor(tokens, wishes, edits))

    def generate(
        self,
        texts: Texts,
        *,
        sites: Selection | None = None,
        edits: Edits = (),
        budget: int | float | str | None = None,
        add_special_tokens: bool = True,
        **settings: Any,
    ) -> Generation:
        """The text that follows, with every step that chose it. Arguments as in `stream`, and two more:

        sites: the values to record, prompt and new tokens, in the same cached pass that writes the text: `.trace`,
        where column t is a text's own position t. The last new token is chosen but never read. budget: as in `trace`,
        for the longest that the text may get.
        """
        tokens, wishes = self.tokens(texts, add_special_tokens), self.settings(settings)
        done_by, watched = edits_of(edits, self.config), None
        if sites is not None:
            watched = self.recording(tokens, sites, edits=done_by, budget=budget, **settings)
        tap = untapped if watched is None else watched.tap
        steps = list(self._edited_stream(tokens, wishes, tap, self._editor(tokens, wishes, done_by)))
        single = isinstance(texts, str) or (not isinstance(texts, Sequence) and len(tokens.ids) == 1)
        prompt = texts if isinstance(texts, str) else list(texts) if isinstance(texts, list | tuple) else None
        trace = None if watched is None else watched.trace(new_ids_of(steps, len(tokens.ids)))
        return collect(tokens, steps, prompt_text=prompt, single=single, trace=trace)

    def recording(
        self,
        texts: Texts,
        sites: Selection,
        *,
        edits: Edits = (),
        budget: int | float | str | None = None,
        **settings: Any,
    ) -> Recording:
        """A tap for `stream` that records, and its `.trace(new_ids)` afterwards. Arguments as in `generate`."""
        tokens, chosen = self.tokens(texts), select(self.config, sites)
        most = most_new_tokens(tokens, self.settings(settings), self.config.n_positions)
        cost = planned(self.decoder, tokens, chosen, new=most)
        if budget is not None:
            cost.within(budget)
        edited = [site for edit in edits_of(edits, self.config) for site in sites_of(edit, self.config)]
        return Recording(self.decoder, tokens, cost, new=most, edited=edited, model=self.name)

    def tokens(self, texts: Texts, add_special_tokens: bool = True) -> Tokens:
        """Whatever stands for texts, as Tokens on the model's device. Ids without a mask: see text/padding.py."""
        if isinstance(texts, Tokens):
            tokens = texts
        elif isinstance(texts, Tensor):
            tokens = tokens_of_ids(texts, self.checkpoint.pad_id, self.checkpoint.bos_id, self.checkpoint.eos_ids)
        else:
            tokens = self.tokenize(texts, add_special_tokens=add_special_tokens)
        return fitting(tokens, self.config.vocab_size, self.config.n_positions).to(self.device)

    def settings(self, asked: dict[str, Any]) -> Sampling:
        """What was asked of `generate`, and where nothing was, what the model's generation_config.json says.

        Raises BadArgument for an unknown name or a value that no run could use.
        """
        return sampling_of(asked, self.sampling)

    def _editor(self, tokens: Tokens, settings: Sampling, edits: Edits) -> Editor:
        most = most_new_tokens(tokens, settings, self.config.n_positions)
        return Editor(edits_of(edits, self.config), self.config, tokens, most)

    def _edited_stream(self, tokens: Tokens, settings: Sampling, tap: Tap, editor: Editor) -> Iterator[Step]:
        """The edits come first: what a tap sees is what the model goes on with."""
        if not editor.edits:
            return self._stream(tokens, settings, tap)
        return self._until_finished(self._stream(tokens, settings, Chain(editor, tap)), editor)

    def _until_finished(self, steps: Iterator[Step], editor: Editor) -> Iterator[Step]:
        yield from steps
        editor.finish()

    def _stream(self, tokens: Tokens, settings: Sampling, tap: Tap) -> Iterator[Step]:
        decoders, decode, show = [], None, None
        if self._has_tokenizer:
            rows = zip(tokens.ids, tokens.mask.bool(), strict=True)
            decoders = [StreamDecoder(self.tokenizer, after=ids[real].tolist()) for ids, real in rows]
            decode, show = self.tokenizer.spelled, self.token_text
        steps = generate(
            self.decoder, tokens, settings,
            eos_ids=self.eos_ids, pad_id=self._pad_id, decode=decode, show=show, tap=tap,
        )  # fmt: skip
        return (replace(step, text=new_text(step, decoders)) for step in steps)

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a text: the checkpoint's, else the tokenizer's."""
        if self.checkpoint.eos_ids:
            return self.checkpoint.eos_ids
        eos = self.tokenizer.eos_id if self._has_tokenizer else None
        return frozenset(() if eos is None else (eos,))

    @property
    def _pad_id(self) -> int:
        return min((id for id in self.eos_ids if 0 <= id < self.config.vocab_size), default=0)

    def token_text(self, token: int) -> str:
        """One id as text, in ⟨⟩ what is none (text/pieces.py); empty where ids are all there is."""
        return self.tokenizer.pieces([token])[0].marked if self._has_tokenizer else ""
