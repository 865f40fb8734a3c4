"""What the page asks about written text: generate it, fork it at a token, and look at one choice over all words.

Every number is of lm, sample/ and edit/; it does not know how a token is chosen, nor sockets.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from cutaway.apps.server.asks import Answer, ask
from cutaway.apps.server.edits import edits_of
from cutaway.apps.server.runs import Run, lines
from cutaway.apps.server.session import Call
from cutaway.apps.server.spelled import token
from cutaway.edit import recipe as recipes
from cutaway.edit.edit import Edit
from cutaway.ground.errors import BadArgument
from cutaway.ground.whole import require_whole
from cutaway.sample.distribution import Choice, as_data, choice, summary
from cutaway.sample.kept_cache import KeptCache
from cutaway.sample.settings import NEW_TOKENS, Sampling
from cutaway.sample.step import Step, forked
from cutaway.text.pieces import Tokens

Named = dict[str, Any]
DRAWS = 10_000  # of one seed: each takes those before it


@dataclass
class Writing:
    """A generation of a reader, as far as it is written. python: the line that gives it, as `out`."""

    prompt: Tokens
    settings: Sampling
    edits: list[Edit]
    python: str
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
    prompt, spelled = _prompt(call, text, messages, run, chat)
    done_by, given = edits_of(call, edits or []), _settings(call, settings, seed, max_new_tokens)
    lines = _python(f"out = lm.{'chat' if chat else 'generate'}({spelled}", given, edits or [])
    written = Writing(prompt, call.lm.settings(given).seeded(), done_by, lines)
    yield from _written(call, written, [])


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
    known: dict[str, Any] = asdict(first.settings)
    given = known | _settings(call, settings, seed, max_new_tokens or first.settings.max_new_tokens)
    chosen = forked(first.steps, step, require_whole("token", token, 0, "send an id of the vocabulary"))
    asked = _settings(call, settings, seed, max_new_tokens)
    lines = f"{first.python}\n" + _python(f"out = lm.fork(out, step={step}, token={token}", asked, [])
    written = Writing(first.prompt, Sampling(**given), first.edits, lines, cache=first.cache)
    yield from _written(call, written, chosen)


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
    yield Answer({"generation": name, "prompt": prompt, "settings": settings.as_data()}, last=False)
    stream = lm.stream(written.prompt, edits=written.edits, cache=written.cache, chosen=chosen, **asdict(settings))
    rewound = dict(zip(("held", "kept"), written.cache.rewound, strict=True)) if chosen else {}
    for step in stream:
        written.steps.append(step)
        id, read = int(step.ids[0]), length + step.index
        prob, entropy, rank = summary(step)
        about = {
            "index": step.index, "id": id, "text": step.text[0], "piece": lm.token_text(id), "prob": prob,
            "entropy": entropy, "rank": rank, "u": None if step.u is None else float(step.u[0]), "forced": step.forced,
            "cache_tokens": read, "cache_bytes": read * each, "ended": step.ended[0],
        }  # fmt: skip
        yield Answer({"step": about} | (rewound if step.index == 0 else {}), last=False)
    steps = written.steps
    call.generations.resize(name, len(steps) * logits + (length + len(steps)) * each)
    text, seconds = "".join(step.text[0] for step in steps), time.perf_counter() - began
    yield Answer({"text": text, "seconds": seconds, "ended": steps[-1].ended[0]}, python=_whole(call, written.python))


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
    if generation is None:
        python = _choice_python(call, str(run), position or 0, made)
    else:
        python = _line(call, generation, step, made)
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
    if generation is None:
        kept: Run = call.runs[str(run)]
        python = lines(call, f"view = {kept.python}", f"view.logits_at({position})[0]")
    else:
        python = _whole(call, f"{call.generations[generation].python}\nout.steps[{step}].logits[0]")
    return Answer({}, {"logits": logits_V}, python=python)


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
    """The prompt, and how Python spells it. Raises BadArgument unless there is one of the three."""
    if sum(each is not None for each in (text, messages, run)) != 1:
        raise BadArgument("a prompt that is not one", "text, messages or run", "send one of the three")
    if run is not None:
        kept: Tokens = call.runs[run].tokens
        return kept, f"torch.tensor({kept.ids[0].tolist()})"
    said = [call.text(each) for message in messages or [] for each in message.values()]
    said += [] if text is None else [call.text(text)]
    if sum(map(len, said)) > call.limits.characters:
        raise BadArgument("messages that are too long", f"{call.limits.characters:,} characters", "send fewer")
    tokens = call.lm.chat_prompt(messages or text or "") if chat or messages else call.lm.tokens(text or "")
    most = min(call.limits.tokens, call.lm.config.n_positions)
    if tokens.ids.shape[1] > most:
        raise BadArgument(f"a text of {tokens.ids.shape[1]:,} tokens", f"at most {most:,}", "write a shorter text")
    return tokens, repr(messages or text)


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
    size = call.lm.decoder.get_parameter("blocks.0.ln1.weight").itemsize
    return 2 * config.n_layers * config.n_kv_heads * config.d_head * size


def _python(start: str, settings: dict[str, Any], edits: list[Any]) -> str:
    """A call with these settings, and edits as data."""
    said = "".join(f", {name}={value!r}" for name, value in settings.items())
    done_by = f", edits=[cutaway.Edit.from_data(each) for each in {json.dumps(edits)}]" if edits else ""
    return f"{start}{said}{done_by})"


def _choice_python(call: Call, run: str, position: int, made: Choice) -> str:
    """The Python of a choice after a position of a run."""
    kept: Run = call.runs[run]
    known = call.lm.settings({}).as_data()
    given = {name: value for name, value in made.settings.as_data().items() if value != known[name]}
    seen = f"view.tokens.ids[0, :{position + 1}]"
    step = f"choice(logits, lm.settings({given!r}), index={made.index}, seen={seen}, show=lm.token_text)"
    imports, logits = "from cutaway.sample.distribution import choice", f"view.logits_at({position})[0]"
    return lines(call, imports, f"view = {kept.python}", f"logits = {logits}", f"print({step}.table())")


def _line(call: Call, generation: str, step: int | None, made: Choice) -> str:
    """The Python of a generation's choice, where nothing was changed in it."""
    written: Writing = call.generations[generation]
    same = made.settings == written.settings and made.index == step
    return _whole(call, f"{written.python}\nprint(out.steps[{step}].table())") if same else ""


def _whole(call: Call, python: str) -> str:
    """Lines that use `lm`, with those before them."""
    return lines(call, *(["import torch"] if "torch." in python else []), *python.splitlines())
