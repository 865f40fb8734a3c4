"""Asks of a run: the pass itself, any value of it, heads, rows of attention, neurons, the lens, attribution, why.

Thin functions over lm.view and analysis/; each answer says the Python that gives it. It does not know sockets.
"""

import math
import time
import warnings
from typing import Any

import torch
from torch import Tensor

from cutaway.analysis.cone import cone
from cutaway.analysis.logit_lens import LensGrid, lens_grid, logit_lens, stream_sites
from cutaway.analysis.neurons import Tokens as Named
from cutaway.analysis.neurons import sites as neuron_sites
from cutaway.analysis.neurons import strongest
from cutaway.apps.server.asks import Answer, ask
from cutaway.apps.server.asks.text import pieces
from cutaway.apps.server.edits import edits_of
from cutaway.apps.server.runs import Run, lines, python_of, tokens_of
from cutaway.apps.server.session import Call
from cutaway.edit.edit import sites_of
from cutaway.explain.attention_row import attention_row
from cutaway.explain.why import parent_indexes
from cutaway.ground.errors import BadArgument
from cutaway.ground.select import full_name
from cutaway.ground.shapes import sizes
from cutaway.ground.sites import all_sites, parents_of
from cutaway.ground.whole import require_whole
from cutaway.lm import LM
from cutaway.trace.view import SQUARES, View, view_plan

CELLS = 512  # of the lens at once, each of them a product with a whole vocabulary: 0.2 s of the default model
MOST = 4 * 2048**2  # bytes of one array in an answer: a head's pattern of the longest text that is run (Limits.tokens)
TERMS = 50  # of a number's, the largest


@ask("run")
def run(
    call: Call, *, text: str, chat: bool = False, edits: list[dict[str, Any]] | None = None, base: str | None = None
) -> Answer:
    """One pass over the text, kept for this reader; with a base the cone of what changed."""
    lm, tokens = call.lm, tokens_of(call, text, chat)
    against: Run | None = None if base is None else call.runs[base]
    done, (expression, sources) = edits_of(call, edits or []), python_of(call, text, chat, edits)
    call.runs.make_space(view_plan(lm.decoder, tokens, done).bytes)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:  # of an edit that changed nothing
        warnings.simplefilter("always")
        view = lm.view(tokens, edits=done)
    call.served.shared["seconds a token"] = (time.perf_counter() - start) / tokens.ids.shape[1]
    kept = Run(view, text, chat, done, expression, sources)
    call.check()
    arrays: dict[str, Tensor] = {site: view[site][0] for site in ("embed.token", "embed.position") if site in lm.sites}
    arrays |= {f"{name[:-4]}_size": size[:, 0] for name, size in view.sizes.items()}
    arrays["resid_size"] = torch.stack([view[site][0].float().norm(dim=-1) for site in stream_sites(lm.config)])
    arrays["thumbnails"] = view.thumbnails[:, 0]
    arrays |= {f"role.{name}": role[:, 0] for name, role in view.roles.items()}
    arrays |= {} if against is None else {"cone": cone(view, against.view)[:, 0]}
    data, grid = _window(kept, lm, None, None)
    data |= {
        "run": call.runs.keep(kept, kept.kept_bytes), "tokens": pieces(lm, view.tokens), "bytes": kept.nbytes,
        "roles": [name for name in arrays if name.startswith("role.")], "lens_texts": data.pop("texts"),
        "notes": [str(each.message) for each in caught], "seconds": time.perf_counter() - start,
    }  # fmt: skip
    effect = ["print(lm.effect(view.tokens, view.source.edits))"] if done else []
    return Answer(data, arrays | grid, lines(call, *kept.python(), "print(repr(view))", *effect))


@ask("lens_grid")
def grid(call: Call, *, run: str, start: int, end: int) -> Answer:
    """The logit lens at some positions more."""
    kept: Run = call.runs[run]
    data, arrays = _window(kept, call.lm, start, end)
    imports = "from cutaway.analysis.logit_lens import lens_grid"
    asked = f"lens_grid(view, lm.decoder, range({data['window'][0]}, {data['window'][1]}))"
    return Answer({**data, "start": data["window"][0], "end": data["window"][1]}, arrays,
                  lines(call, imports, *kept.python(), asked))  # fmt: skip


@ask("values")
def values(
    call: Call, *, run: str, site: str, head: int | None = None, start: int = 0, end: int | None = None
) -> Answer:
    """One site's values of the text; of scores and patterns, one head's. start, end: positions."""
    kept: Run = call.runs[run]
    value, data, expression = read_values(kept.view, call.lm, site, head, start, end)
    return Answer(data, {"values": value}, lines(call, *kept.python(), expression))


@ask("head")
def head(call: Call, *, run: str, layer: int, head: int) -> Answer:
    """One head's scores and pattern, the bits of the pass."""
    kept: Run = call.runs[run]
    found = kept.view.head(layer, head)
    expression = f"scores, pattern, z = view.head({layer}, {head})"
    arrays = {"pattern": found.pattern[0], "scores": found.scores[0]}
    return Answer({}, arrays, lines(call, *kept.python(), expression))


@ask("row")
def row(call: Call, *, run: str, layer: int, head: int, position: int) -> Answer:
    """One row of attention, step by step. edited: its sites that are not what the ones before them give."""
    kept: Run = call.runs[run]
    found, config = vars(attention_row(kept.view, layer, head, kept.position(position))), call.lm.config
    imports = "from cutaway.explain.attention_row import attention_row"
    expression = f"attention_row(view, {layer}, {head}, {position})"
    steps = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    data = {name: value for name, value in found.items() if name not in steps} | {"softcap": config.attn_softcap}
    changed = {site for edit in kept.edits for site in sites_of(edit, config)}
    own = ("scores", "pattern", "v", "z")
    data["edited"] = [name for name in own if f"blocks.{layer % config.n_layers}.attn.{name}" in changed]
    return Answer(data, steps, lines(call, imports, *kept.python(), expression))


@ask("neurons")
def neurons(call: Call, *, run: str, layer: int, position: int, top: int = 12) -> Answer:
    """The neurons that add most at a position, what each reads and promotes."""
    kept: Run = call.runs[run]
    lm, at, top = call.lm, kept.position(position), require_whole("top", top, 1, "send for example 12")
    layer = _layer(lm, layer)
    found = strongest(kept.view.read(neuron_sites(layer, lm.config.gated)), lm.decoder, layer, at, top=min(top, 256))
    words = ("reads", "promotes", "suppresses")
    data = [vars(each) | {name: _named(lm, getattr(each, name)) for name in words} for each in found]
    imports = "from cutaway.analysis.neurons import strongest"
    expression = f"strongest(view, lm.decoder, {layer}, {at}, top={top})"
    return Answer({"neurons": data}, python=lines(call, imports, *kept.python(), expression))


@ask("lens")
def lens(call: Call, *, run: str, layer: int, position: int, top: int = 10) -> Answer:
    """The likeliest next tokens at one position after one block; layer 0 is what enters the first."""
    kept: Run = call.runs[run]
    lm, at, top = call.lm, kept.position(position), require_whole("top", top, 1, "send for example 10")
    count = lm.config.n_layers + 1
    if not 0 <= layer < count:
        raise BadArgument(f"layer {layer}", f"0 to {count - 1}", "choose another layer")
    if layer == lm.config.n_layers:  # the model's own answer, with the edits after the last block
        logits_V, imports, given = kept.logits_at(at), [], f"view.logits_at({at})[0]"
    else:
        logits_V = logit_lens(kept.view, lm.decoder, torch.tensor([at], device=lm.device))[layer, 0]
        imports = ["import torch", "from cutaway.analysis.logit_lens import logit_lens"]
        given = f"logit_lens(view, lm.decoder, torch.tensor([{at}]))[{layer}, 0]"
    logits_V = logits_V.float()
    probs_V = logits_V.softmax(-1)
    ids = probs_V.topk(min(top, len(probs_V))).indices.tolist()
    found = [{"id": id, "text": lm.piece(id), "logit": float(logits_V[id]), "prob": float(probs_V[id])} for id in ids]
    return Answer({"tokens": found}, python=lines(call, *imports, *kept.python(), f"{given}.softmax(-1).topk({top})"))


@ask("attribute")
def attribute(
    call: Call, *, run: str, position: int, answer: int | None = None, against: int | None = None, by: str = "block"
) -> Answer:
    """Which parts of the model wrote a logit: parts that sum to it."""
    kept: Run = call.runs[run]
    at = kept.position(position)
    found = call.lm.attribute(kept.tokens, answer, against, by=by, position=at, edits=kept.edits)
    asked = f"lm.attribute(view.tokens, {answer}, {against}, by={by!r}, position={at}"
    asked += ", edits=view.source.edits)" if kept.edits else ")"
    return Answer(found.to_dict(), python=lines(call, *kept.python(), asked))


@ask("why")
def why(call: Call, *, run: str, site: str, index: list[int]) -> Answer:
    """What made one number: its formula, its terms, and its value recomputed. No index has the axis of the batch."""
    kept: Run = call.runs[run]
    name = full_name("site", site, call.lm.sites)
    trace = kept.view.read([name, *parents_of(call.lm.config, name)])
    shape, axes = list(trace[name].shape[1:]), all_sites(call.lm.config)[name].shape.split()[1:]
    if len(index) != len(shape) or not all(0 <= at < size for at, size in zip(index, shape, strict=True)):
        expected = f"an index for each of {' '.join(axes)} = {shape}"
        raise BadArgument(f"{name}[{', '.join(map(str, index))}]", expected, "correct the index")
    found = call.lm.why(trace, name, 0, *index)
    data = found.to_dict()
    terms = sorted(data["terms"], key=lambda term: -abs(term["contribution"]))
    own, parents = found.index, parent_indexes(call.lm.config, name, found.index)
    data |= {
        "index": list(own[1:]), "terms": terms[:TERMS], "count": len(terms),
        "shape": shape, "difference": found.difference,
        "parents": [{"site": parent, "index": list(at[1:])} for parent, at in parents],
    }  # fmt: skip
    expression = f"print(lm.why(view, {name!r}, {', '.join(map(str, own))}))"
    return Answer(data, python=lines(call, *kept.python(), expression))


def read_values(
    view: View, lm: LM, site: str, head: int | None, start: int, end: int | None
) -> tuple[Tensor, dict[str, Any], str]:
    """A site's values of the one text, what is said of them, and the Python."""
    name, count = full_name("site", site, lm.sites), view.tokens.ids.shape[1]
    stop = count if end is None else end
    if not 0 <= start < stop <= count:
        raise BadArgument(f"positions {start} to {stop}", f"a part of 0 to {count}", "choose positions of the text")
    axes = _axes(lm, name, head, {"T": stop - start, "S": count})
    if name == "logits":  # each position's is a product with the whole vocabulary
        value = view.logits_between(start, stop)[0]
    elif name.endswith(SQUARES) and head is not None:
        found = view.head(int(name.split(".")[1]), head)
        value = (found.scores if name.endswith("scores") else found.pattern)[0, start:stop]
    else:
        value = view[name] if head is None else view[_relative(name), int(name.split(".")[1]), head]
        value = value[0, start:stop]
    read = f'view["{name}"]' if head is None else f'view["{_relative(name)}", {name.split(".")[1]}, {head}]'
    finite = value[value.isfinite()].float()
    ends = (float(finite.min()), float(finite.max())) if finite.numel() else (None, None)
    data = {
        "site": name, "shape": list(value.shape), "axes": axes, "min": ends[0], "max": ends[1],
        "nan": int(value.isnan().sum()), "inf": int(value.isinf().sum()), "start": start, "end": stop,
    }  # fmt: skip
    return value, data, f"{read}[0]" if (start, stop) == (0, count) else f"{read}[0, {start}:{stop}]"


def _axes(lm: LM, name: str, head: int | None, width: dict[str, int]) -> list[str]:
    """The axes that are sent. Raises BadArgument for a head where there is none, or that is missing, or too much."""
    axes = all_sites(lm.config)[name].shape.split()[1:]
    squares, heads = name.endswith(SQUARES), [axis for axis in axes if axis in "HG"]
    if (squares and head is None) or (head is not None and not heads):
        found, expected = f"{name} [{' '.join(axes)}] with head {head}", "one head" if squares else "no head"
        raise BadArgument(found, expected, "send head, or leave it out")
    sent = [axis for axis in axes if head is None or axis not in heads]
    nbytes = 4 * math.prod((sizes(lm.config) | {"1": 1} | width)[axis] for axis in sent)
    if nbytes > MOST:
        expected = f"at most {MOST // 10**6} MB at once"
        raise BadArgument(f"{name}, {nbytes // 10**6} MB", expected, "ask for fewer positions: start and end")
    return sent


def _relative(name: str) -> str:
    return name.split(".", 2)[2]


def _window(kept: Run, lm: LM, start: int | None, end: int | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The lens at some positions; None: as many of the last as are computed at once."""
    count, most = kept.tokens.ids.shape[1], max(1, CELLS // (lm.config.n_layers + 1))
    end = count if end is None else end
    start = max(0, end - most) if start is None else start
    if not 0 <= start < end <= count or end - start > most:
        expected = f"at most {most} positions of 0 to {count}"
        raise BadArgument(f"positions {start} to {end}", expected, "ask for a part of them")
    found: LensGrid = lens_grid(kept.view, lm.decoder, range(start, end))
    shown = {*found.ids.flatten().tolist(), *found.top_ids.flatten().tolist()}
    arrays = {"lens_ids": found.ids, "lens_probs": found.probability}
    arrays |= {"top_ids": found.top_ids, "top_probs": found.top_probability}
    return {"window": [start, end], "texts": {str(id): lm.piece(id) for id in sorted(shown)}}, arrays


def _named(lm: LM, tokens: Named) -> list[dict[str, Any]]:
    return [{"id": id, "text": lm.piece(id), "value": value} for id, value in tokens]


def _layer(lm: LM, layer: int) -> int:
    count = lm.config.n_layers
    if not 0 <= layer < count:
        raise BadArgument(f"layer {layer}", f"0 to {count - 1}", "choose another block")
    return layer
