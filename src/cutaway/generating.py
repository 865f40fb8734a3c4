"""Text from a model: generate, stream, chat and record, the methods of LM that run the loop of sample/.

It knows a decoder, its tokenizer and how texts become tokens; it does not know how a token is chosen.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Unpack

from cutaway.edit.edit import Edit
from cutaway.edit.editor import Editor, sites_of
from cutaway.edit.recipe import Edits, edits_of
from cutaway.ground.errors import BadArgument, NoTokenizer
from cutaway.ground.select import Selection, select
from cutaway.ground.whole import require_whole
from cutaway.model.cache import Cache
from cutaway.model.tap import Chain, Tap, untapped
from cutaway.questions import Questions, Texts
from cutaway.questions.answers import answers_of
from cutaway.sample.generation import Generation, collect, new_ids_of, new_text
from cutaway.sample.kept_cache import KeptCache
from cutaway.sample.keywords import Settings, takes_settings
from cutaway.sample.loop import generate, passes_of, require_steps
from cutaway.sample.published import published_settings, sampling_of
from cutaway.sample.settings import Sampling
from cutaway.sample.step import Step, forked
from cutaway.sample.stopping import most_new_tokens
from cutaway.text.chat import Messages, chat_prompt, chat_tokens
from cutaway.text.pieces import Tokens
from cutaway.text.stream import StreamDecoder
from cutaway.trace.generation_trace import Recording
from cutaway.trace.run import planned

ANSWER_TOKENS = 512  # of a chat's answer, which ends by itself: 50 would cut most off
CHAT_NOTE = "this model was trained on a chat template: lm.chat(text) asks it"


class Generating(Questions):
    """What LM inherits to write text."""

    @takes_settings()
    def generate(
        self,
        texts: Texts,
        *,
        sites: Selection | None = None,
        edits: Edits = (),
        budget: int | float | str | None = None,
        add_special_tokens: bool = True,
        keep_cache: bool = False,
        **settings: Unpack[Settings],
    ) -> Generation:
        """The text that follows, with every step that chose it; for a list of texts a list of them.

        texts: a string, a list of strings, ids, or Tokens. sites: values to record, of prompt and new tokens, in the
        pass that writes the text: they are in `.trace`, where column t is a text's own position t; the last new token
        is chosen but never read. edits: done in every pass; Edits, or a recipe's file. budget: bytes, or "2 GB":
        raises BadArgument before the run where the trace of the longest possible text takes more.
        add_special_tokens: as in `tokenize`. keep_cache: True keeps keys and values of a single text in `.cache`, so
        that `fork` reads nothing twice. For a chat model see `chat`; for tokens as they come, `stream`.

        Raises BadText for an empty text or one that fills the context, BadArgument for a setting that no run could use
        and an edit that is never reached, NotFinite for logits that name no token.
        """
        tokens, wishes = self._spelled(self.tokens(texts, add_special_tokens)), self.settings(settings)
        done_by, watched = edits_of(edits, self.decoder.config), None
        if sites is not None:
            watched = self.recording(tokens, sites, edits=done_by, budget=budget, **settings)
        tap, cache = untapped if watched is None else watched.tap, KeptCache() if keep_cache else None
        steps = list(self._run(tokens, wishes, tap, done_by, cache))
        single = isinstance(texts, str) or (not isinstance(texts, Sequence) and len(tokens.ids) == 1)
        prompt = texts if isinstance(texts, str) else list(texts) if isinstance(texts, list | tuple) else None
        trace = None if watched is None else watched.trace(new_ids_of(steps, len(tokens.ids)))
        note = CHAT_NOTE if prompt is not None and add_special_tokens and self.lacks_chat_template(tokens) else ""
        return collect(
            tokens, steps, prompt_text=prompt, single=single, trace=trace, note=note, cache=cache, edits=done_by
        )

    @takes_settings()
    def stream(
        self,
        texts: Texts,
        *,
        tap: Tap = untapped,
        edits: Edits = (),
        add_special_tokens: bool = True,
        cache: KeptCache | None = None,
        chosen: Sequence[Step] = (),
        **settings: Unpack[Settings],
    ) -> Iterator[Step]:
        """Steps as they happen; step.text holds what each text gained, never half a character.

        texts, edits, add_special_tokens: as in `generate`, and so are the errors. tap: watches or changes the values
        of every pass (model/tap.py). chosen: first steps of one text, of another run: they come first, and their tokens
        are not chosen again. cache: a KeptCache (sample/kept_cache.py) to use and to leave filled; what it has read of
        prompt and chosen steps, under the same edits, is not computed again, so that no tap sees it.
        """
        tokens, wishes = self.tokens(texts, add_special_tokens), self.settings(settings)
        return self._run(tokens, wishes, tap, edits_of(edits, self.decoder.config), cache, chosen)

    def fork(
        self,
        out: Generation,
        step: int,
        token: str | int,
        *,
        edits: Edits | None = None,
        **settings: Unpack[Settings],
    ) -> Generation:
        """Another text: `out` up to its new token number `step`, `token` there, and what the model writes after it.

        out: a generation of one text. step: from 0. token: a word or an id. edits: None takes those of `out`.
        settings: as in `generate`; where you say nothing, those of `out`'s last step, its seed too: its own token
        gives its own text. max_new_tokens counts the tokens before, too. With `generate(…, keep_cache=True)` the cache
        of `out` is rewound and nothing is read twice; without, the text up to there is read again, to the same bits.

        Raises BadArgument for several texts, a step that is none of out's, what is no token, and edits that a pickle
        of `out` could not hold; else as `generate`.
        """
        if not isinstance(out, Generation) or len(out.prompt.ids) != 1 or not out.steps:
            found = f"a {type(out).__name__}" if not isinstance(out, Generation) else "a generation of several texts"
            raise BadArgument(found, "a generation of one text", 'pass for example lm.generate("I love")')
        number = require_whole("step", step, 0, "pass for example step=3")
        if number >= len(out.steps):
            raise BadArgument(f"step={number}", f"one of its {len(out.steps)} steps, from 0", "choose an earlier step")
        if edits is None and out.edits is None:
            raise BadArgument("a pickled generation, whose edits had a function", "its edits", "pass them as edits=")
        asked: dict[str, Any] = {**out.steps[-1].settings.as_data(), **settings}
        steps = forked(out.steps, number, answers_of(self, 1, token).ids[0])
        done_by = edits_of(list(out.edits or ()) if edits is None else edits, self.decoder.config)
        stream = self.stream(out.prompt, edits=done_by, cache=out.cache or KeptCache(), chosen=steps, **asked)
        return collect(
            out.prompt, list(stream), prompt_text=out.prompt_text, single=isinstance(out.text, str),
            cache=out.cache, edits=done_by,
        )  # fmt: skip

    @takes_settings(max_new_tokens=ANSWER_TOKENS)
    def chat(
        self,
        messages: str | Messages,
        *,
        sites: Selection | None = None,
        edits: Edits = (),
        budget: int | float | str | None = None,
        **settings: Unpack[Settings],
    ) -> Generation:
        """The model's answer to messages, by its chat template: `.text` is the answer, `.prompt_text` what it read.

        messages: a string, which is one message of the user, or [{"role": "user", "content": "Hello"}, ...] with
        roles system, user and assistant. To go on, append {"role": "assistant", "content": out.text} and the next
        question. sites, edits, budget: as in `generate`. Raises NoTokenizer for a model without a chat template,
        BadArgument for messages that the template refuses, and as `generate`.
        """
        if settings.get("max_new_tokens") is None and settings.get("max_length") is None:
            settings["max_new_tokens"] = ANSWER_TOKENS
        prompt = chat_prompt(self.tokenizer, messages)  # the template writes BOS itself
        return self.generate(prompt, sites=sites, edits=edits, budget=budget, add_special_tokens=False, **settings)

    def chat_prompt(self, messages: str | Messages) -> Tokens:
        """The prompt that asks for the next message, by the model's chat template, as Tokens for `generate`.

        messages: as in `chat`. The template writes BOS itself, so no second one is added. Raises NoTokenizer without a
        template, BadArgument where the template refuses.
        """
        return chat_tokens(self.tokenizer, messages, context=self.decoder.config.n_positions)

    @takes_settings()
    def recording(
        self,
        texts: Texts,
        sites: Selection,
        *,
        edits: Edits = (),
        budget: int | float | str | None = None,
        **settings: Unpack[Settings],
    ) -> Recording:
        """A tap for `stream` that records, and its `.trace(new_ids)` afterwards. Arguments as in `generate`."""
        tokens, chosen = self.tokens(texts), select(self.decoder.config, sites)
        most = most_new_tokens(tokens, self.settings(settings), self.decoder.config.n_positions)
        cost = planned(self.decoder, tokens, chosen, new=most)
        if budget is not None:
            cost.within(budget)
        config = self.decoder.config
        edited = [site for edit in edits_of(edits, config) for site in sites_of(edit, config)]
        return Recording(self.decoder, tokens, cost, new=most, edited=edited, model=self.name,
                         spelled=self._spelled)  # fmt: skip

    def _spelled(self, tokens: Tokens) -> Tokens:
        """The tokens with their pieces, where the model has a tokenizer."""
        return self.tokenizer.with_pieces(tokens) if self.has_tokenizer else tokens

    def settings(self, asked: Mapping[str, Any]) -> Sampling:
        """What was asked of `generate`, and where nothing was, what the model's generation_config.json says.

        Raises BadArgument for an unknown name or a value that no run could use.
        """
        return sampling_of(asked, self.sampling)

    @cached_property
    def sampling(self) -> dict[str, Any]:
        """The settings that the model's generation_config.json gives: `generate` takes them where you say nothing."""
        settings = published_settings(self.checkpoint.generation)[0]
        return settings if self.has_tokenizer else {n: v for n, v in settings.items() if n != "stop_strings"}

    @cached_property
    def has_tokenizer(self) -> bool:
        """Whether texts can be read and written; ids in and ids out work without."""
        try:
            return bool(self.tokenizer)
        except NoTokenizer:
            return False

    def lacks_chat_template(self, tokens: Tokens) -> bool:
        """Whether the model has a chat template and this prompt was not written by it: none of its special tokens."""
        if not self.has_tokenizer or not self.tokenizer.chat_template:
            return False
        ends = {self.tokenizer.bos_id, self.tokenizer.eos_id, self.tokenizer.pad_id}
        return not (self.tokenizer.special_ids - ends).intersection(tokens.ids.flatten().tolist())

    def _run(
        self,
        tokens: Tokens,
        settings: Sampling,
        tap: Tap,
        edits: Sequence[Edit],
        kept: KeptCache | None = None,
        chosen: Sequence[Step] = (),
    ) -> Iterator[Step]:
        """The edits come first: what a tap sees is what the model goes on with."""
        config = self.decoder.config
        most = most_new_tokens(tokens, settings, config.n_positions)
        editor = Editor(edits, config, tokens, most)
        require_steps(chosen, len(tokens.ids), most)
        cache = None if kept is None else self._lent(kept, tokens, chosen, most, edits)
        done = passes_of(cache, tokens)
        editor.passes.skip(done)
        if edits:
            tap = Chain(editor, tap)
        steps = self._stream(tokens, settings, tap, cache, chosen)
        if edits and not done:  # those of passes that the cache remembers acted when it was filled
            steps = self._until_finished(steps, editor)
        return steps if kept is None or cache is None else self._kept(steps, tokens, kept, cache, edits)

    def _lent(self, kept: KeptCache, tokens: Tokens, chosen: Sequence[Step], most: int, edits: Sequence[Edit]) -> Cache:
        """The kept cache, long enough for this run. Raises BadArgument where it could not hold it."""
        if not isinstance(kept, KeptCache) or len(tokens.ids) != 1 or tokens.padded:
            found = f"a {type(kept).__name__} as cache" if not isinstance(kept, KeptCache) else "several texts"
            raise BadArgument(f"{found} to be kept", "a KeptCache, and one text", "leave it out, or pass one text")
        prompt, new = tokens.ids[0].tolist(), [int(step.ids[0]) for step in chosen]
        return kept.take(self.decoder, prompt, new, len(prompt) + max(most, len(new)) - 1, edits)

    def _kept(
        self, steps: Iterator[Step], tokens: Tokens, kept: KeptCache, cache: Cache, edits: Sequence[Edit]
    ) -> Iterator[Step]:
        """The steps; afterwards, or where the caller stops, the cache is kept with what was read until the last one."""
        ids, read = tokens.ids[0].tolist(), cache.length
        try:
            for step in steps:
                ids, read = [*ids, int(step.ids[0])], cache.length
                yield step
        finally:
            cache.rewind(read)  # a pass that was stopped leaves nothing
            kept.give(self.decoder, cache, ids[:read], edits)

    def _until_finished(self, steps: Iterator[Step], editor: Editor) -> Iterator[Step]:
        yield from steps
        editor.finish()

    def _stream(
        self, tokens: Tokens, settings: Sampling, tap: Tap, cache: Cache | None, chosen: Sequence[Step]
    ) -> Iterator[Step]:
        decoders, decode, show = [], None, None
        if self.has_tokenizer:
            rows = zip(tokens.ids, tokens.mask.bool(), strict=True)
            decoders = [StreamDecoder(self.tokenizer, after=ids[real].tolist()) for ids, real in rows]
            decode, show = self.tokenizer.spelled, self.tokenizer.text  # not a method of this: a step keeps it
        steps = generate(
            self.decoder, tokens, settings,
            eos_ids=self.eos_ids, pad_id=self._pad_id, decode=decode, show=show, tap=tap, cache=cache, chosen=chosen,
        )  # fmt: skip
        return (replace(step, text=new_text(step, decoders)) for step in steps)

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a text: the checkpoint's, else the tokenizer's."""
        if self.checkpoint.eos_ids:
            return self.checkpoint.eos_ids
        eos = self.tokenizer.eos_id if self.has_tokenizer else None
        return frozenset(() if eos is None else (eos,))

    @property
    def _pad_id(self) -> int:
        return min((id for id in self.eos_ids if 0 <= id < self.decoder.config.vocab_size), default=0)

    def token_text(self, token: int) -> str:
        """What one id looks like as text; empty where ids are all there is."""
        return self.tokenizer.text(token) if self.has_tokenizer else ""
