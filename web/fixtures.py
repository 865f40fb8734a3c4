"""A stand-in for the server while the page is built: answers the first requests with values of the model's own passes.

It knows no queue, no limits and no cancelling. `python web/fixtures.py 8000`, then open the address that it prints.
"""

import json
import sys
import time
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
from cutaway.text.table import visible

PAGE = Path(__file__).parents[1] / "src" / "cutaway" / "apps" / "server" / "page"
LM = cutaway.load()
RUNS: dict = {}
PROMPT = "The Eiffel Tower is in the city of"


def hello(**_):
    c = LM.config
    model = {
        "name": LM.name, "summary": str(LM), "type": LM.checkpoint.model_type, "n_layers": c.n_layers,
        "n_heads": c.n_heads, "n_kv_heads": c.n_kv_heads, "d_model": c.d_model, "d_mlp": c.d_mlp, "d_head": c.d_head,
        "vocab_size": c.vocab_size, "n_positions": c.n_positions, "precision": "8 bits",
        "positions": "learned" if c.rope is None else "rope", "gated": c.gated, "parallel": False,
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


def merges(row):
    made = LM.tokenizer.merges(row)

    def show(part):
        return visible(LM.tokenizer.token_bytes(LM.tokenizer.backend.token_to_id(part)))

    each = [{"left": show(m.left), "right": show(m.right), "result": show(m.result), "rank": m.rank, "piece": m.piece}
            for m in (made or ([], 0))[0]]  # fmt: skip
    return each if made else None


def tokens(texts, padding_side="right", special=True, **_):
    t = LM.tokenize(texts, padding_side=padding_side, add_special_tokens=special)
    rows = [
        {"bytes": list(x.encode()), "pieces": [piece(p) for p in r], "merges": merges(r), "note": None}
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
        "roles": [each for each in arrays if each.startswith("role.")],
        "window": [0, length], "lens_texts": texts, "notes": [], "python": f"lm.trace({text!r})",
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


ASKS = {each.__name__: each for each in (hello, tokens, plan, run, values, head)}


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
        try:
            if ask not in ASKS:
                raise cutaway.ground.errors.BadArgument(ask, "a request of web/fixtures.py", "run the real server")
            data, arrays = ASKS[ask](**message)
            about = {"id": str(number), "last": "true", "answer": json.dumps(words(data))}
            await socket.send_bytes(save({n: sent(v) for n, v in arrays.items()}, about))
        except CutawayError as e:
            error = {"found": e.found, "expected": e.expected, "do": e.do}
            await socket.send_text(json.dumps({"id": number, "error": error}))


if __name__ == "__main__":
    app = Starlette(routes=[WebSocketRoute("/ws", ws), Mount("/", StaticFiles(directory=PAGE, html=True))])
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    sys.stderr.write(f"http://127.0.0.1:{port}/\n")
    uvicorn.run(app, port=port, log_level="warning")
