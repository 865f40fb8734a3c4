"""transformers in bfloat16 with its default attention (SDPA)."""

import torch
from serve import arguments, serve, versions
from transformers import AutoModelForCausalLM
from transformers_loop import greedy, nbytes

path, threads, _ = arguments()
torch.set_num_threads(threads)
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
serve(greedy(model), settings="bfloat16, sdpa", nbytes=nbytes(model), runs_on=versions("torch", "transformers"))
