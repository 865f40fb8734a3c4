"""A stand-in for the server while the page is built: answers the first requests with values of the model's own passes.

It knows no queue, no limits and no cancelling. `python web/fixtures.py 8000`, then open the address that it prints.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import uvicorn
from safetensors.torch import save
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from starlette.staticfiles import StaticFiles
from torch.nn.functional import max_pool2d

import cutaway
from cutaway.analysis.heads import score_heads
from cutaway.analysis.logit_lens import logit_lens, stream_sites
from cutaway.ground.errors import CutawayError
from cutaway.ground.sites import all_sites, parents_of
from cutaway.sample.distribution import as_data, choice
from cutaway.sample.kept_cache import KeptCache
from cutaway.sample.step import forked

PAGE = Path(__file__).parents[1] / "src" / "cutaway" / "apps" / "server" / "page"
LM = cutaway.load()
RUNS: dict = {}
WRITTEN: dict = {}  # a generation: its prompt, its steps, its cache
PROMPT = "The Eiffel Tower is in the city of"


def hello(**_):
    c = LM.config
    model = {
        "name": LM.name, "summary": str(LM), "type": LM.checkpoint.model_type, "n_layers": c.n_layers,
        "n_heads": c.n_heads, "n_kv_heads": c.n_kv_heads, "d_model": c.d_model, "d_mlp": c.d_mlp, "d_head": c.d_head,
        "vocab_size": c.vocab_size, "n_positions": c.n_positions, "precision": "8 bits",
        "positions": "learned" if c.rope is None else "rope", "gated": c.gated, "parallel": getattr(c, "parallel", False),
    }  # fmt: skip
    sites = [
        {"name": n, "shape": s.shape, "formula": s.formula, "parents": parents_of(c, n), "meaning": ""}
        for n, s in all_sites(c).items()
    ]
    return {"version": "", "model": model, "sites": sites, "sampling": LM.sampling, "chat": True, "example": PROMPT,
            "limits": {}, "token_texts": False}, {}  # fmt: skip


def piece(p):
    start, end = p.span or (None, None)
    return {"id": p.id, "text": p.text, "bytes": list(p.bytes), "start": start, "end": end, "special": p.special,
            "padding": p.padding}  # fmt: skip


def tokens(texts, padding_side="right", special=True, **_):
    t = LM.tokenize(texts, padding_side=padding_side, add_special_tokens=special)
    rows = [
        {"bytes": list(x.encode()), "pieces": [piece(p) for p in r], "merges": None, "note": None}
        for x, r in zip(texts, t.pieces, strict=True)
    ]
    python = f"lm.tokenize({texts!r}, padding_side={padding_side!r})"
    return {"texts": rows, "python": python}, {"ids": t.ids, "mask": t.mask, "positions": t.positions}


def plan(text, **_):
    p = LM.plan(text)
    rows = [{"what": k, "bytes": v} for k, v in p.kinds.items()]
    return {"tokens": LM.tokenize(text).ids.shape[1], "bytes": p.bytes, "seconds": 0.2, "rows": rows}, {}


def run(text, edits=(), **_):
    start = time.perf_counter()
    t = LM.trace(text, edits=[cutaway.Edit.from_data(e) for e in edits] if edits else ())
    name = f"r{len(RUNS) + 1}"
    RUNS[name] = t
    layers, length = range(LM.config.n_layers), t.tokens.ids.shape[1]
    pattern = torch.stack([t[f"blocks.{i}.attn.pattern"][0] for i in layers])
    pooled = pattern if length <= 64 else max_pool2d(pattern, -(-length // 64), ceil_mode=True)
    streams = [t[s][0] for s in stream_sites(LM.config)]
    lens = torch.stack([logit_lens(t, LM.decoder, torch.tensor([i]))[:, 0] for i in range(length)], 1).softmax(-1)
    probs, ids = lens.max(-1)
    top = t["logits"][0].softmax(-1).topk(5)
    scores = score_heads(t).by_name
    nan = torch.full(pattern.shape[:2], float("nan"))
    arrays = {
        "embed.token": t["embed.token"][0],
        "attn_size": torch.stack([t[f"blocks.{i}.attn_out"][0].norm(dim=-1) for i in layers]),
        "mlp_size": torch.stack([t[f"blocks.{i}.mlp_out"][0].norm(dim=-1) for i in layers]),
        "resid_size": torch.stack([s.norm(dim=-1) for s in streams]),
        "thumbnails": (pooled * 255).round().to(torch.uint8),
        **{f"role.{r}": scores.get(r, nan) for r in
           ("previous", "duplicate", "induction", "first", "self", "entropy")},
        "lens_ids": ids, "lens_probs": probs, "top_ids": top.indices, "top_probs": top.values,
    }  # fmt: skip
    texts = {str(i): LM.tokenizer.text(i) for i in {*ids.flatten().tolist(), *top.indices.flatten().tolist()}}
    data = {
        "run": name, "tokens": [piece(p) for p in LM.tokenize(text).pieces[0]],
        "seconds": time.perf_counter() - start, "bytes": t.plan.bytes,
        "roles": {r: f"role.{r}" for r in ("previous", "duplicate", "induction", "first", "self", "entropy")},
        "lens_texts": texts, "notes": [], "python": f"lm.trace({text!r})",
    }  # fmt: skip
    return data, arrays


def values(run, site, head=None, **_):
    value = RUNS[run][site][0]
    value = value[head] if head is not None else value
    shape = all_sites(LM.config)[site].shape.split()[1:]
    found = {"shape": list(value.shape), "min": value.min().item(), "max": value.max().item()}
    return found | {"axes": shape if head is None else shape[1:], "python": f"lm.trace(text, {site!r})[{site!r}][0]"}, {
        "values": value
    }


def head(run, layer, head, **_):
    return {}, {n: RUNS[run][f"blocks.{layer}.attn.{n}"][0, head] for n in ("pattern", "scores")}


def sampling(settings, seed, run=None, position=0, generation=None, step=0, draw=0, count=40, **more):
    asked = LM.settings({**settings, "seed": seed})
    if generation:
        tokens, steps, _ = WRITTEN[generation]
        seen = torch.cat([tokens.ids[0], *(s.ids for s in steps[:step])])
        made = choice(steps[step].logits[0], asked, index=draw, seen=seen, show=LM.token_text)
    else:
        seen = RUNS[run].tokens.ids[0, : position + 1]
        made = choice(RUNS[run]["logits"][0, position], asked, index=draw, seen=seen, show=LM.token_text)
    return as_data(made, more.get("from", 0), count, LM.token_text), {}


def generate(settings, seed, max_new_tokens, text=None, run=None, chat=False, **_):
    tokens = LM.chat_prompt(text) if chat else RUNS[run].tokens if run else LM.tokenize(text)
    yield from written(tokens, KeptCache(), (), settings, seed, max_new_tokens)


def fork(generation, step, token, settings, seed, max_new_tokens):
    tokens, steps, cache = WRITTEN[generation]
    yield from written(tokens, cache, forked(steps, step, token), settings, seed, max_new_tokens)


def written(tokens, cache, chosen, settings, seed, most):
    name, steps, start = f"g{len(WRITTEN) + 1}", [], time.perf_counter()
    WRITTEN[name] = tokens, steps, cache
    a_token = 2 * 4 * LM.config.n_layers * LM.config.n_kv_heads * LM.config.d_head
    yield {"generation": name, "prompt": [piece(p) for p in LM._spelled(tokens).pieces[0]]}, {}
    for s in LM.stream(tokens, cache=cache, chosen=chosen, seed=seed, max_new_tokens=most, **settings):
        steps.append(s)
        p, read = s.logits[0].double().softmax(-1), tokens.ids.shape[1] + s.index
        prob = p[s.ids[0]]
        about = {
            "index": s.index, "id": int(s.ids[0]), "text": s.text[0], "prob": float(prob), "entropy": float(-(p * p.log()).nansum()),
            "rank": int((p > prob).sum()), "cache_bytes": read * a_token, "cache_tokens": read, "ended": s.ended[0],
        }  # fmt: skip
        yield {"step": about}, {}
    text = "".join(s.text[0] for s in steps)
    yield {"text": text, "seconds": time.perf_counter() - start, "ended": steps[-1].ended[0]}, {}


ASKS = {each.__name__: each for each in (hello, tokens, plan, run, values, head, sampling, generate, fork)}


def words(x):
    if isinstance(x, float) and not abs(x) < float("inf"):
        return "NaN" if x != x else "Infinity" if x > 0 else "-Infinity"
    if isinstance(x, dict):
        return {k: words(v) for k, v in x.items()}
    return [words(v) for v in x] if isinstance(x, list | tuple) else x


def sent(x):
    kind = torch.uint8 if x.dtype == torch.uint8 else torch.float32 if x.is_floating_point() else torch.int32
    return x.detach().to(kind).contiguous().clone()


async def ws(socket):
    await socket.accept()
    async for text in socket.iter_text():
        message = json.loads(text)
        number, ask = message.pop("id"), message.pop("ask")
        message.pop("channel", None)
        try:
            if ask not in ASKS:
                raise cutaway.ground.errors.BadArgument(ask, "a request of web/fixtures.py", "run the real server")
            made = ASKS[ask](**message)
            for data, arrays in made if isinstance(made, Iterator) else (made,):
                last = json.dumps(not isinstance(made, Iterator) or "seconds" in data)
                about = {"id": str(number), "last": last, "answer": json.dumps(words(data))}
                await socket.send_bytes(save({n: sent(v) for n, v in arrays.items()}, about))
                await asyncio.sleep(0)
        except CutawayError as e:
            error = {"found": e.found, "expected": e.expected, "do": e.do}
            await socket.send_text(json.dumps({"id": number, "error": error}))


if __name__ == "__main__":
    app = Starlette(routes=[WebSocketRoute("/ws", ws), Mount("/", StaticFiles(directory=PAGE, html=True))])
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    sys.stderr.write(f"http://127.0.0.1:{port}/\n")
    uvicorn.run(app, port=port, log_level="warning")
