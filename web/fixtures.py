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
from torch.nn.functional import adaptive_max_pool2d

import cutaway
from cutaway.analysis.derived import matrix
from cutaway.analysis.heads import score_heads
from cutaway.analysis.logit_lens import logit_lens, stream_sites
from cutaway.ground.errors import CutawayError
from cutaway.ground.sites import all_sites, parents_of

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


def grid(t, window):
    logits = torch.stack([logit_lens(t, LM.decoder, torch.tensor([i]))[:, 0] for i in window], 1)
    probs, ids = logits.softmax(-1).max(-1)
    top = logits[-1].softmax(-1).topk(5)
    texts = {str(i): LM.tokenizer.text(i) for i in {*ids.flatten().tolist(), *top.indices.flatten().tolist()}}
    found = {"start": window.start, "end": window.stop, "texts": texts}
    return found, {"lens_ids": ids, "lens_probs": probs, "top_ids": top.indices, "top_probs": top.values}


def lens_grid(run, start, end, **_):
    return grid(RUNS[run], range(start, end))


def run(text, edits=(), **_):
    start = time.perf_counter()
    t = LM.trace(text, edits=[cutaway.Edit.from_data(e) for e in edits] if edits else ())
    name = f"r{len(RUNS) + 1}"
    RUNS[name] = t
    layers, length = range(LM.config.n_layers), t.tokens.ids.shape[1]
    pattern = torch.stack([t[f"blocks.{i}.attn.pattern"][0] for i in layers])
    pooled = pattern if length <= 64 else adaptive_max_pool2d(pattern, 64)
    streams = [t[s][0] for s in stream_sites(LM.config)]
    window = range(max(0, length - 1024 // len(streams)), length)
    found, lens = grid(t, window)
    scores = score_heads(t).by_name
    ids_T = t.tokens.ids[0]
    after = torch.cat((torch.zeros(length, 1), (ids_T[:, None] == ids_T[None]).float()[:, :-1]), 1).tril(-1)
    if after.any():
        scores["induction"] = (pattern * after).sum(-1)[..., after.any(-1)].mean(-1)
    nan = torch.full(pattern.shape[:2], float("nan"))
    arrays = {
        "embed.token": t["embed.token"][0],
        "attn_size": torch.stack([t[f"blocks.{i}.attn_out"][0].norm(dim=-1) for i in layers]),
        "mlp_size": torch.stack([t[f"blocks.{i}.mlp_out"][0].norm(dim=-1) for i in layers]),
        "resid_size": torch.stack([s.norm(dim=-1) for s in streams]),
        "thumbnails": (pooled * 255).round().to(torch.uint8),
        **{f"role.{r}": scores.get(r, nan) for r in
           ("previous", "duplicate", "induction", "first", "self", "entropy")},
        **lens,
    }  # fmt: skip
    data = {
        "run": name, "tokens": [piece(p) for p in LM.tokenize(text).pieces[0]],
        "seconds": time.perf_counter() - start, "bytes": t.plan.bytes,
        "roles": [f"role.{r}" for r in ("previous", "duplicate", "induction", "first", "self", "entropy")],
        "window": [window.start, window.stop],
        "lens_texts": found["texts"], "notes": [], "python": f"lm.trace({text!r})",
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


def row(run, layer, head, position, **_):
    t, c = RUNS[run], LM.config
    group = head * c.n_kv_heads // c.n_heads
    q, k = (f"blocks.{layer}.attn.{'rot_' if c.rope is not None else ''}{x}" for x in "qk")
    q, k, v = t[q][0, position, head], t[k][0, :, group], t[f"blocks.{layer}.attn.v"][0, :, group]
    scores, pattern = (t[f"blocks.{layer}.attn.{n}"][0, head, position] for n in ("scores", "pattern"))
    z = t[f"blocks.{layer}.attn.z"][0, position, head]
    return {"kv_head": group}, {"q": q, "dots": k @ q, "scores": scores, "pattern": pattern, "v": v, "z": z}


def scored(values, count=5, largest=True):
    best = values.topk(count, largest=largest)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [{"id": i, "text": LM.tokenizer.text(i), "value": x} for i, x in pairs]


def neurons(run, layer, position, top=12, **_):
    t, d, at = RUNS[run], LM.decoder, f"blocks.{layer}.mlp."
    kinds = ("pre", "pre_linear", "post") if LM.config.gated else ("pre", "post")
    found = {k: t[at + k][0, position] for k in kinds}
    down, gate = (
        matrix(d, f"blocks.{layer}.W_down"),
        matrix(d, f"blocks.{layer}.W_{'gate' if LM.config.gated else 'up'}"),
    )
    size = found["post"].abs() * down.norm(dim=0)
    rows = []
    for i in size.topk(min(top, len(size))).indices.tolist():
        written = (down[:, i] * found["post"][i].sign() * d.unembed.ln_final.weight) @ matrix(d, "W_U").T
        read = gate[i] @ d.embed.token.weight.T
        rows.append(
            {
                "neuron": i,
                **{k: found[k][i].item() for k in kinds},
                "size": size[i].item(),
                "reads": scored(read),
                "promotes": scored(written),
                "suppresses": scored(written, largest=False),
            }
        )
    return {"neurons": rows}, {}


def lens(run, layer, position, top=10, **_):
    logits = logit_lens(RUNS[run], LM.decoder, torch.tensor([position]))[layer, 0]
    best = logits.softmax(-1).topk(top)
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {
        "tokens": [{"id": i, "text": LM.tokenizer.text(i), "logit": logits[i].item(), "prob": x} for i, x in rows]
    }, {}


def attribute(run, position, by, answer=None, against=None, **_):
    text = LM.attribute(
        RUNS[run].tokens,
        None if answer is None else [answer],
        None if against is None else [against],
        by=by,
        position=position,
    )
    return text.to_dict(), {}


ASKS = {f.__name__: f for f in (hello, tokens, plan, run, values, head, row, neurons, lens, lens_grid, attribute)}


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
