"""llama.cpp's logits of every position, float32 [tokens, vocabulary], written as one .npy file.

It runs in the venv of that peer: a .gguf file, the ids as JSON, the output file, the threads.
"""

import json
import sys

import numpy as np
from llama_cpp import Llama

path, ids, out, threads = sys.argv[1:]
tokens = json.loads(ids)
llama = Llama(path, n_ctx=len(tokens), n_batch=512, n_threads=int(threads), n_threads_batch=int(threads),
              logits_all=True, verbose=False)  # fmt: skip
llama.eval(tokens)
np.save(out, llama.scores[: len(tokens)])
