"""The loop: prefill once, then decode one token a step; each step is yielded at once.

It prints nothing, streams nothing and knows no tokenizer: callers read the steps. It does not know what its tap does.
"""

import math
from collections.abc import Callable, Generator
from dataclasses import replace
from itertools import count
from typing import no_type_check

import torch
from torch import Tensor

from cutaway.ground.errors import NotFinite
from cutaway.model.cache import Cache
from cutaway.model.decoder import Decoder
from cutaway.model.tap import Tap, require_tap, untapped
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
) -> Generator[Step, None, None]:
    """Steps of a batch of texts, until each is finished: by an eos id, a stop string, its length or the context's end.

    tokens [B, T], padded on either side. pad_id: the id of finished texts while others go on. decode: new ids → text,
    for stop strings. cache: an empty one to use; None makes one of the size needed. use_cache=False reads the whole
    text again at each step: slow, the reference of the cached way. Every step's settings hold the seed of the draws,
    given or not. Closing the generator (or Ctrl-C) leaves no state behind.

    Raises, before the first step, BadText for a prompt that is empty or longer than the context, and BadArgument for
    a max_length that the prompt fills, stop strings without decode, or an incomplete tap; while running, NotFinite for
    logits that name no token. Source of the meaning of every argument: transformers 5.23, GenerationMixin.generate.
    """
    require_tap(tap)
    n_positions = decoder.config.n_positions
    stopping = StoppingCriteria(tokens, settings, n_positions, eos_ids, decode)
    if use_cache and cache is None:
        batch, width = tokens.ids.shape
        capacity = width + most_new_tokens(tokens, settings, n_positions) - 1  # the last token is not read
        cache = Cache(decoder.config.n_layers, batch, capacity)
    return _steps(decoder, tokens, settings.seeded(), stopping, pad_id, tap, cache if use_cache else None, show)


def _steps(
    decoder: Decoder,
    seen: Tokens,
    settings: Sampling,
    stopping: StoppingCriteria,
    pad_id: int,
    tap: Tap,
    cache: Cache | None,
    show: Callable[[int], str] | None,
) -> Generator[Step, None, None]:
    draws = dice(settings.seed or 0, len(stopping.finished))
    read, needs_text = seen, cache is None or settings.repetition_penalty != 1
    for index in count():
        with torch.inference_mode():  # not around the yield, where the caller's code runs
            logits_BV = _last_logits(decoder, read, cache, tap)
            was_over_B = torch.tensor(stopping.finished, device=logits_BV.device)
            u_B = next(draws) if settings.do_sample else None
            with one_thread(logits_BV.numel()):
                ids_B = _choose(logits_BV, settings, seen, u_B, index, stopping.finished)
            if any(stopping.finished):
                ids_B = torch.where(was_over_B, pad_id, ids_B)
            stopping.add(ids_B.tolist())
            penalized = (seen.ids, seen.mask) if settings.repetition_penalty != 1 else (None, None)
            ended = tuple(stopping.reasons)
            column = _column(ids_B, stopping.positions())
            seen = _appended(seen, column) if needs_text else seen
            read = column if cache is not None else seen
        yield Step(index, logits_BV, settings, ids_B, u_B, ended, was_over_B, *penalized, show)
        if all(stopping.finished):
            return


def _last_logits(decoder: Decoder, tokens: Tokens, cache: Cache | None, tap: Tap) -> Tensor:
    """Logits [B, V] of each text's last token; the others' are computed too where the tap wants the unembedding."""
    if tokens.ids.shape[1] == 1:
        return decoder(tokens, cache, tap)[:, 0]
    if not tap.wants(*LAST_SITES):
        return decoder(tokens, cache, tap, tokens.last)[:, 0]
    rows_B = torch.arange(len(tokens.last), device=tokens.ids.device)
    return decoder(tokens, cache, tap)[rows_B, tokens.last]  # a copy: a step must not keep all T in memory


def _choose(
    logits_BV: Tensor, settings: Sampling, seen: Tokens, u_B: Tensor | None, index: int, finished: list[bool]
) -> Tensor:
    """Ids [B]: filter, then draw or take the highest."""
    do = "look for the first such value with a trace"
    _require_numbers(logits_BV, f"in the logits of step {index}", finished, do)
    filtered_BV = stages(logits_BV, settings, seen.ids, seen.mask)[-1][1]
    if filtered_BV is not logits_BV:
        where = f"in the logits of step {index} after {settings}"
        _require_numbers(filtered_BV, where, finished, "use a temperature and a repetition_penalty nearer to 1")
    return greedy(filtered_BV) if u_B is None else draw(filtered_BV.softmax(-1), u_B)


def _require_numbers(logits_BV: Tensor, where: str, finished: list[bool], do: str) -> None:
    """Raises NotFinite for a row with NaN, +inf or nothing but -inf: its highest logit is no number."""
    for row, highest in enumerate(logits_BV.amax(-1).tolist()):
        if not math.isfinite(highest) and not finished[row]:
            found = "nothing but -inf" if highest == -math.inf else "NaN" if math.isnan(highest) else "+inf"
            raise NotFinite(f"{found} {where}, text {row}", "numbers, at least one above -inf", do)


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
