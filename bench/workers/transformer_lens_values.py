"""Every value that TransformerLens's bridge caches on given ids, in float32, written as one .safetensors file.

It runs in the venv of that peer: model folder, ids as JSON, output file. The weights are left as they are.
"""

import json
import sys

import torch
from safetensors.torch import save_file
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, ids, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
bridge = TransformerBridge.boot_transformers(
    folder, hf_model=model, tokenizer=AutoTokenizer.from_pretrained(folder), dtype=torch.float32, device="cpu"
)
with torch.no_grad():
    _, cache = bridge.run_with_cache(torch.tensor(json.loads(ids)))
wanted = {name: cache[name] for name in cache if isinstance(cache[name], torch.Tensor)}
save_file({name: value.contiguous().clone() for name, value in wanted.items()}, out)
