"""transformers + bitsandbytes LLM.int8() on the CPU, in the dtype between the layers that is fastest here."""

import logging

import torch
from serve import Decode, arguments, fastest, serve, versions
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers_loop import greedy, nbytes

path, threads, _ = arguments()
torch.set_num_threads(threads)
logging.disable(logging.WARNING)  # it writes a line for every product, which costs time
sizes = {}


def loaded(dtype: str) -> Decode:
    eight_bits = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(
        path, quantization_config=eight_bits, dtype=getattr(torch, dtype), device_map="cpu"
    ).eval()
    sizes[dtype] = nbytes(model)
    return greedy(model)


name, decode = fastest({dtype: lambda dtype=dtype: loaded(dtype) for dtype in ("bfloat16", "float32")})
packages = versions("torch", "transformers", "bitsandbytes")
serve(decode, settings=f"load_in_8bit, {name}", nbytes=sizes[name], runs_on=packages)
