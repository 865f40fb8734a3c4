"""What the page asks about written text: generate it, fork it at a token, and look at one choice over all words.

Every number is of lm, sample/ and edit/; it does not know how a token is chosen, nor sockets.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from cutaway.apps.server.asks import Answer, ask
from cutaway.apps.server.edits import edits_of
from cutaway.apps.server.runs import Run, assigned, edits_python, lines, spelled, tokens_of, within
from cutaway.apps.server.session import Call
from cutaway.apps.server.spelled import token
from cutaway.edit import recipe as recipes
from cutaway.edit.edit import Edit
from cutaway.ground.errors import BadArgument
from cutaway.ground.whole import require_whole
from cutaway.model.parts import dtype_of
from cutaway.sample.distribution import Choice, as_data, choice, summary
from cutaway.sample.kept_cache import KeptCache
from cutaway.sample.settings import NEW_TOKENS, Sampling
from cutaway.sample.step import Step, forked
from cutaway.text.pieces import Tokens

Named = dict[str, Any]
DRAWS = 10_000  # of one seed: each takes those before it


@dataclass
class Writing:
    """A generation of a reader, as far as it is written. python: the lines that give it, as `out`."""

    prompt: Tokens
    settings: Sampling
    edits: list[Edit]
    python: list[str]
    steps: list[Step] = field(default_factory=list)
    cache: KeptCache = field(default_factory=KeptCache)

    def ids(self, step: int) -> Tensor:
        """Prompt and new tokens before a step, [S]."""
        return self.prompt.ids.new_tensor([*self.prompt.ids[0].tolist(), *(int(s.ids[0]) for s in self.steps[:step])])


@ask("generate")
def generate(
    call: Call,
    *,
    text: str | None = None,
    messages: list[dict[str, str]] | None = None,
    run: str | None = None,
    chat: bool = False,
    settings: Named | None = None,
    seed: int | None = None,
    max_new_tokens: int = NEW_TOKENS,
    edits: list[Any] | None = None,
) -> Iterator[Answer]:
    """The text that follows, a token an answer; kept with its cache, so that it can be forked."""
    prompt, start = _prompt(call, text, messages, run, chat)
    given, done_by = _settings(call, settings, seed, max_new_tokens), edits_of(call, edits or [])
    sampling = call.lm.settings(given).seeded()
    changes, sources = edits_python(call, edits or [])
    python = [*assigned(sources), _call(start, given, sampling, changes)]
    yield from _written(call, Writing(prompt, sampling, done_by, python), [])


@ask("fork")
def fork(
    call: Call,
    *,
    generation: str,
    step: int,
    token: int,
    settings: Named | None = None,
    seed: int | None = None,
    max_new_tokens: int | None = None,
) -> Iterator[Answer]:
    """A generation up to a step, another token there, and what follows: the cache is rewound, nothing is read twice."""
    first: Writing = call.generations[generation]
    _require_step(first, step)
    given = _settings(call, settings, seed, max_new_tokens)
    sampling = call.lm.settings({**first.steps[-1].settings.as_data(), **given}).seeded()
    chosen = forked(first.steps, step, require_whole("token", token, 0, "send an id of the vocabulary"))
    python = [*first.python, _call(f"fork(out, step={step}, token={token}", given, sampling)]
    yield from _written(call, Writing(first.prompt, sampling, first.edits, python, cache=first.cache), chosen)


def _written(call: Call, written: Writing, chosen: Sequence[Step]) -> Iterator[Answer]:
    """First the name and the prompt, then each step as it is chosen, then the whole text.

    The first step of a fork comes with the tokens that the cache held, and how many of them were kept.
    """
    lm, settings, began = call.lm, written.settings, time.perf_counter()
    length, most = written.prompt.ids.shape[1], settings.max_new_tokens or NEW_TOKENS
    each, logits = _cache_bytes(call), 4 * lm.config.vocab_size
    pieces = lm.tokenizer.with_pieces(written.prompt).pieces
    name = call.generations.keep(written, most * logits + (length + most) * each)
    prompt = [token(piece) for piece in (pieces or ((),))[0]]
    steps = written.steps
    try:
        yield Answer({"generation": name, "prompt": prompt, "settings": settings.as_data()}, last=False)
        stream = lm.stream(written.prompt, edits=written.edits, cache=written.cache, chosen=chosen, **asdict(settings))
        rewound = dict(zip(("held", "kept"), written.cache.rewound, strict=True)) if chosen else {}
        for step in stream:
            steps.append(step)
            id, read = int(step.ids[0]), length + step.index
            prob, entropy, rank = summary(step)
            about = {
                "index": step.index, "id": id, "text": step.text[0], "piece": lm.token_text(id), "prob": prob,
                "entropy": entropy, "rank": rank, "u": None if step.u is None else float(step.u[0]),
                "forced": step.forced, "cache_tokens": read, "cache_bytes": read * each, "ended": step.ended[0],
            }  # fmt: skip
            yield Answer({"step": about} | (rewound if step.index == 0 else {}), last=False)
    finally:  # one that is cancelled is kept as far as it is written
        call.generations.resize(name, len(steps) * logits + (length + len(steps)) * each)
    text, seconds = "".join(step.text[0] for step in steps), time.perf_counter() - began
    python = lines(call, *written.python)
    yield Answer({"text": text, "seconds": seconds, "ended": steps[-1].ended[0]}, python=python)


@ask("sampling", beside=True)
def sampling(
    call: Call,
    *,
    generation: str | None = None,
    step: int | None = None,
    run: str | None = None,
    position: int | None = None,
    settings: Named | None = None,
    seed: int | None = None,
    draw: int | None = None,
    from_: int = 0,
    count: int = 40,
) -> Answer:
    """One choice over the whole vocabulary: the stages, the curves, a window of candidates, and a draw."""
    logits_V, seen, index = _chosen_from(call, generation, step, run, position)
    wanted = require_whole("draw", index if draw is None else draw, 0, "send a draw from 0")
    if wanted > DRAWS or not 1 <= count <= 1000:
        found = f"draw={wanted}" if wanted > DRAWS else f"count={count}"
        raise BadArgument(found, f"a draw up to {DRAWS:,} and 1 to 1,000 candidates", "send less")
    given = call.lm.settings(_settings(call, settings, seed, None))
    made = choice(logits_V, given, index=wanted, seen=seen, show=call.lm.token_text)
    python = _choice_python(call, made, *_logits_python(call, generation, step, run, position))
    return Answer(as_data(made, from_, count, call.lm.token_text), python=python)


@ask("logits", beside=True)
def logits(
    call: Call,
    *,
    generation: str | None = None,
    step: int | None = None,
    run: str | None = None,
    position: int | None = None,
) -> Answer:
    """The logits of one choice, of the whole vocabulary."""
    logits_V, _, _ = _chosen_from(call, generation, step, run, position)
    before, python, _ = _logits_python(call, generation, step, run, position)
    return Answer({}, {"logits": logits_V}, python=lines(call, *before, python))


@ask("recipe")
def recipe(call: Call, *, edits: list[Any]) -> Answer:
    """The edits as the JSON of a recipe, which `--edits` and `edits=` read."""
    return Answer({"recipe": recipes.as_text(edits_of(call, edits), call.lm.config)})


@ask("check")
def check(call: Call, *, recipe: str) -> Answer:
    """The edits in a recipe's JSON, read as untrusted data."""
    found = recipes.from_text(call.text(recipe), call.lm.config)
    return Answer({"edits": [edit.as_data() for edit in found], "words": [str(edit) for edit in found]})


def _prompt(
    call: Call, text: str | None, messages: list[dict[str, str]] | None, run: str | None, chat: bool
) -> tuple[Tokens, str]:
    """The prompt, and how Python begins to ask what follows. Raises BadArgument unless there is one of the three."""
    if sum(each is not None for each in (text, messages, run)) != 1:
        raise BadArgument("a prompt that is not one", "text, messages or run", "send one of the three")
    if run is not None:
        kept: Run = call.runs[run]
        return kept.tokens, f"generate({spelled(kept.text, kept.chat)}"
    if text is not None:
        return tokens_of(call, text, chat), f"{'chat' if chat else 'generate'}({text!r}"
    said = [call.text(each) for message in messages or [] for each in message.values()]
    if sum(map(len, said)) > call.limits.characters:
        raise BadArgument("messages that are too long", f"{call.limits.characters:,} characters", "send fewer")
    return within(call, call.lm.chat_prompt(messages or [])), f"chat({messages!r}"


def _settings(call: Call, given: Named | None, seed: int | None, new: int | None) -> dict[str, Any]:
    """The settings of a request by name. Raises BadArgument for a length that this server does not allow."""
    settings = dict(given or {})
    if seed is not None:
        settings["seed"] = seed
    for name in ("max_length", "max_new_tokens"):
        if name in settings:
            raise BadArgument(f"{name} in settings", "max_new_tokens beside them", "send it as an argument")
    if new is not None:
        settings["max_new_tokens"] = require_whole("max_new_tokens", new, 1, "send for example 50")
        if new > call.limits.new_tokens:
            raise BadArgument(f"max_new_tokens={new}", f"at most {call.limits.new_tokens}", "ask for fewer")
    return settings


def _chosen_from(
    call: Call, generation: str | None, step: int | None, run: str | None, position: int | None
) -> tuple[Tensor, Tensor, int]:
    """Logits [V], the ids before the choice [S], and the number of the choice among the draws of its seed."""
    if generation is not None and step is not None:
        written: Writing = call.generations[generation]
        _require_step(written, step)
        return written.steps[step].logits[0], written.ids(step), step
    if run is None or position is None:
        do = "send generation and step, or run and position"
        raise BadArgument("no choice", "a step of a generation, or a position of a run", do)
    ids = call.runs[run].tokens.ids[0]
    if not 0 <= position < len(ids):
        raise BadArgument(f"position={position}", f"0 to {len(ids) - 1}", "send a position of the run")
    return call.reader.logits_of(run, position), ids[: position + 1], 0


def _require_step(written: Writing, step: int) -> None:
    if not 0 <= step < len(written.steps):
        raise BadArgument(
            f"step={step}", f"one of its {len(written.steps)} steps, from 0", "send a step that is written"
        )


def _cache_bytes(call: Call) -> int:
    """Bytes of keys and values of one token."""
    config = call.lm.config
    return 2 * config.n_layers * config.n_kv_heads * config.d_head * dtype_of(call.lm.decoder).itemsize


def _call(start: str, given: Named, sampling: Sampling, edits: str = "") -> str:
    """The call of `lm`, with the seed that was drawn where none was given."""
    seed = {} if sampling.seed is None else {"seed": sampling.seed}
    return f"out = lm.{start}{''.join(f', {name}={value!r}' for name, value in (given | seed).items())}{edits})"


def _logits_python(
    call: Call, generation: str | None, step: int | None, run: str | None, position: int | None
) -> tuple[list[str], str, str]:
    """Lines, and what then gives the logits of one choice [V] and the ids before it [S]."""
    if generation is None:
        kept: Run = call.runs[str(run)]
        return kept.python(), f"view.logits_at({position})[0]", f"view.tokens.ids[0, :{(position or 0) + 1}]"
    written: Writing = call.generations[generation]
    seen = f"torch.tensor([*out.prompt.ids[0].tolist(), *out.new_ids[0][:{step}]], device=lm.device)"
    return written.python, f"out.steps[{step}].logits[0]", seen


def _choice_python(call: Call, made: Choice, before: list[str], logits: str, seen: str) -> str:
    """Lines that print a choice."""
    known = call.lm.settings({}).as_data()
    given = {name: value for name, value in made.settings.as_data().items() if value != known[name]}
    seen = f", seen={seen}" if made.settings.repetition_penalty != 1 else ""
    imports = ["from cutaway.sample.distribution import choice", *(["import torch"] if "torch." in seen else [])]
    shown = f"choice(logits, lm.settings({given!r}), index={made.index}{seen}, show=lm.token_text)"
    return lines(call, *imports, *before, f"logits = {logits}", f"print({shown}.table())")
