"""The loop: prefill once, then decode one token a step; each step is yielded at once.

It prints nothing, streams nothing and knows no tokenizer: callers read the steps. It does not know what its tap does.
"""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, no_type_check

import torch
from torch import Tensor

from cutaway.ground.errors import BadArgument, NotFinite
from cutaway.model.cache import Cache
from cutaway.model.decoder import Decoder
from cutaway.model.tap import Tap, require_tap, untapped
from cutaway.quant.engine import bits_by_text
from cutaway.quant.threads import one_thread
from cutaway.sample.choose import dice, draw, greedy
from cutaway.sample.filters import stages
from cutaway.sample.settings import Sampling
from cutaway.sample.step import Step
from cutaway.sample.stopping import Decode, StoppingCriteria, most_new_tokens
from cutaway.text.pieces import Tokens

LAST_SITES = ("ln_final.scale", "ln_final.normalized", "ln_final.out", "logits")


@no_type_check  # it checks the tap itself, in a sentence: the tests' beartype would come before it
def generate(
    decoder: Decoder,
    tokens: Tokens,
    settings: Sampling,
    *,
    eos_ids: frozenset[int] = frozenset(),
    pad_id: int = 0,
    decode: Decode | None = None,
    tap: Tap = untapped,
    cache: Cache | None = None,
    show: Callable[[int], str] | None = None,
    use_cache: bool = True,
    chosen: Sequence[Step] = (),
) -> Generator[Step, None, None]:
    """Steps of a batch of texts, until each is finished: by an eos id, a stop string, its length or the context's end.

    tokens [B, T], padded on either side. pad_id: the id of finished texts while others go on. decode: new ids → text,
    for stop strings. cache: one to use, empty, or with the prompt and some of the chosen tokens read; None makes one of
    the size needed. chosen: first steps of one text that are given: they come first, and nothing is drawn for them.
    use_cache=False reads the whole text again at each step: slow, the reference of the cached way. Every step's
    settings hold the seed of the draws, given or not. Closing the generator (or Ctrl-C) leaves no state behind.

    Raises, before the first step, BadText for a prompt that is empty or longer than the context, and BadArgument for
    a max_length that the prompt fills, chosen steps of several texts or more than the run may have, stop strings
    without decode, or an incomplete tap; while running, NotFinite for logits that name no token. Source of the
    meaning of every argument: transformers 5.23, GenerationMixin.generate.
    """
    require_tap(tap)
    n_positions = decoder.config.n_positions
    require_steps(chosen, len(tokens.ids), most_new_tokens(tokens, settings, n_positions))
    stopping = StoppingCriteria(tokens, settings, n_positions, eos_ids, decode)
    # A text that has ended leaves the pass where that moves no bit of the others', and where nothing watches it
    leave = use_cache and cache is None and tap is untapped and len(tokens.ids) > 1 and bits_by_text(decoder)
    if use_cache and cache is None:
        batch, width = tokens.ids.shape
        capacity = width + most_new_tokens(tokens, settings, n_positions) - 1  # the last token is not read
        cache = Cache(decoder.config.n_layers, batch, capacity)
    cache = cache if use_cache else None
    return _steps(decoder, tokens, settings.seeded(), stopping, pad_id, tap, cache, show, leave, list(chosen))


def _steps(
    decoder: Decoder,
    seen: Tokens,
    settings: Sampling,
    stopping: StoppingCriteria,
    pad_id: int,
    tap: Tap,
    cache: Cache | None,
    show: Callable[[int], str] | None,
    leave: bool,
    chosen: list[Step],
) -> Generator[Step, None, None]:
    draws = dice(settings.seed or 0, len(stopping.finished))
    read, needs_text = seen, cache is None or settings.repetition_penalty != 1
    rows = list(range(len(stopping.finished)))  # the texts of the pass
    done, was_over_B = passes_of(cache, seen), torch.tensor(stopping.finished, device=seen.ids.device)
    for index in count():
        with torch.inference_mode():  # not around the yield, where the caller's code runs
            given = chosen[index] if index < len(chosen) else None
            logits_NV = given.logits if given and index < done else _last_logits(decoder, read, cache, tap)
            if any(stopping.finished):
                was_over_B = torch.tensor(stopping.finished, device=logits_NV.device)
            u_B = next(draws) if settings.do_sample else None
            with one_thread(logits_NV.numel()):
                ids_N = given.ids if given else _choose(logits_NV, settings, seen, u_B, index, stopping.finished, rows)
                logits_BV, ids_B = (_spread(each, rows, len(was_over_B)) for each in (logits_NV, ids_N))
            if any(stopping.finished):
                ids_B = torch.where(was_over_B, pad_id, ids_B)
            stopping.add(ids_B.tolist())
            penalized = (seen.ids, seen.mask) if settings.repetition_penalty != 1 else (None, None)
            ended = tuple(stopping.reasons)
            column = _column(ids_B, stopping.positions())
            seen = _appended(seen, column) if needs_text else seen
            if leave and cache is not None:
                rows = _leave(cache, rows, stopping.finished)
            read = seen if cache is None else _only(column, rows)
        new = Step(index, logits_BV, settings, ids_B, u_B, ended, was_over_B, *penalized, show)
        yield replace(given, ended=ended) if given else new
        if all(stopping.finished):
            return


def passes_of(cache: Cache | None, prompt: Tokens) -> int:
    """How many passes of a run a cache has behind it: the prompt's, and one for each new token that it has read."""
    return max(0, cache.length - prompt.ids.shape[1] + 1) if cache is not None else 0


def require_steps(chosen: Any, batch: int, most: int) -> None:
    """Raises BadArgument for anything but steps of one text, no more than the new tokens of the run."""
    listed = list(chosen) if isinstance(chosen, list | tuple) else [chosen]
    wrong = [each for each in listed if not isinstance(each, Step)]
    if wrong or (listed and batch != 1):
        found = f"{type(wrong[0]).__name__} among chosen steps" if wrong else f"chosen steps for {batch} texts"
        raise BadArgument(found, "the first steps of one text", "pass for example out.steps[:3]")
    for each in listed:
        each.require_one_text()
    if len(listed) > most:
        raise BadArgument(f"{len(listed)} chosen steps", f"at most {most} new tokens", "raise max_new_tokens")


def _leave(cache: Cache, before: list[int], finished: list[bool]) -> list[int]:
    """The texts of the next pass: those that have just ended leave it, and the cache."""
    after = [row for row in before if not finished[row]]
    if not after or len(after) == len(before):
        return before
    cache.keep([before.index(row) for row in after])
    return after


def _only(tokens: Tokens, rows: list[int]) -> Tokens:
    if len(rows) == len(tokens.ids):
        return tokens
    return replace(tokens, ids=tokens.ids[rows], mask=tokens.mask[rows], positions=tokens.positions[rows])


def _spread(values: Tensor, rows: list[int], batch: int) -> Tensor:
    """A row for each text of the batch: NaN (as an id, 0) for those that were not in the pass."""
    if len(rows) == batch:
        return values
    fill = math.nan if values.is_floating_point() else 0
    index_N = torch.tensor(rows, device=values.device)
    return values.new_full((batch, *values.shape[1:]), fill).index_copy(0, index_N, values)


def _last_logits(decoder: Decoder, tokens: Tokens, cache: Cache | None, tap: Tap) -> Tensor:
    """Logits [B, V] of each text's last token; the others' are computed too where the tap wants the unembedding."""
    if tokens.ids.shape[1] == 1:
        return decoder(tokens, cache, tap)[:, 0]
    if not tap.wants(*LAST_SITES):
        return decoder(tokens, cache, tap, tokens.last)[:, 0]
    rows_B = torch.arange(len(tokens.last), device=tokens.ids.device)
    return decoder(tokens, cache, tap)[rows_B, tokens.last]  # a copy: a step must not keep all T in memory


def _choose(
    logits_NV: Tensor,
    settings: Sampling,
    seen: Tokens,
    u_B: Tensor | None,
    index: int,
    finished: list[bool],
    rows: list[int],
) -> Tensor:
    """Ids [N] of the texts of the pass, which are these rows of the batch: filter, then draw or take the highest."""
    running = [None if finished[row] else row for row in rows]
    do = "look for the first such value with a trace"
    _require_numbers(logits_NV, f"in the logits of step {index}", running, do)
    chosen = slice(None) if len(rows) == len(finished) else rows
    filtered_NV = stages(logits_NV, settings, seen.ids[chosen], seen.mask[chosen])[-1][1]
    if filtered_NV is not logits_NV:
        where = f"in the logits of step {index} after {settings}"
        _require_numbers(filtered_NV, where, running, "use a temperature and a repetition_penalty nearer to 1")
    return greedy(filtered_NV) if u_B is None else draw(filtered_NV.softmax(-1), u_B[chosen])


def _require_numbers(logits_NV: Tensor, where: str, texts: list[int | None], do: str) -> None:
    """Raises NotFinite for a row with NaN, +inf or nothing but -inf: its highest logit is no number.

    texts: the text of each row; None for one that has ended.
    """
    for text, highest in zip(texts, logits_NV.amax(-1).tolist(), strict=True):
        if text is not None and not math.isfinite(highest):
            found = "nothing but -inf" if highest == -math.inf else "NaN" if math.isnan(highest) else "+inf"
            raise NotFinite(f"{found} {where}, text {text}", "numbers, at least one above -inf", do)


def _column(ids_B: Tensor, positions: list[int]) -> Tokens:
    """The newest token of each text [B, 1]. A finished text's pad token is unmasked: no other text reads it."""
    ids_B1 = ids_B[:, None]
    positions_B1 = torch.tensor(positions, device=ids_B.device)[:, None]
    return Tokens(ids_B1, torch.ones_like(ids_B1), positions_B1)


def _appended(seen: Tokens, column: Tokens) -> Tokens:
    ids, mask, positions = (
        torch.cat([getattr(seen, name), getattr(column, name)], dim=1) for name in ("ids", "mask", "positions")
    )
    return replace(seen, ids=ids, mask=mask, positions=positions, pieces=None)
