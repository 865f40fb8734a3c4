"""nnsight: a pass, and one that saves queries, keys, values, attention, MLP and stream of every block."""

import sys

import torch
from nnsight import LanguageModel
from serve import versions
from tracing import serve

path, threads = sys.argv[1:3]
torch.set_num_threads(int(threads))
model = LanguageModel(path, device_map="cpu", dispatch=True, dtype=torch.float32)


def plain(ids: list[int], new: int) -> object:
    with torch.no_grad(), model.trace(torch.tensor([ids])):
        out = model.output.logits.save()
    return out  # noqa: RET504  nnsight fills it when the block ends


def saved(ids: list[int], new: int) -> object:
    with torch.no_grad(), model.trace(torch.tensor([ids])):
        kept = list().save()  # noqa: C408  nnsight's own list
        for layer in model.model.layers:
            kept.append(layer.self_attn.q_proj.output.clone())
            kept.append(layer.self_attn.k_proj.output.clone())
            kept.append(layer.self_attn.v_proj.output.clone())
            kept.append(layer.self_attn.output[0].clone())
            kept.append(layer.mlp.output.clone())
            kept.append((layer.output[0] if isinstance(layer.output, tuple) else layer.output).clone())
    return kept


serve({"pass": plain, "trace, no scores": saved}, settings="float32", runs_on=versions("torch", "nnsight"))
