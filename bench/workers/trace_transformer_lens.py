"""TransformerLens's bridge: a pass, and run_with_cache of everything, float32."""

import sys

import torch
from serve import versions
from tracing import serve
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

path, threads = sys.argv[1:3]
torch.set_num_threads(int(threads))
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
bridge = TransformerBridge.boot_transformers(
    path, hf_model=model, tokenizer=AutoTokenizer.from_pretrained(path), dtype=torch.float32, device="cpu"
)


def plain(ids: list[int], new: int) -> object:
    with torch.no_grad():
        return bridge(torch.tensor([ids]))


def cached(ids: list[int], new: int) -> object:
    with torch.no_grad():
        return bridge.run_with_cache(torch.tensor([ids]))


serve({"pass": plain, "trace": cached}, settings="float32, eager", runs_on=versions("torch", "transformer-lens"))
