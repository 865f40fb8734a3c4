"""llama.cpp with Q8_0 weights, through llama-cpp-python's own bindings, with or without flash attention."""

import ctypes

import numpy as np
from llama_cpp import Llama, llama_get_logits_ith, llama_model_size
from serve import Decode, Each, arguments, fastest, serve, versions

path, threads, _ = arguments()
sizes = []


def loaded(flash: bool) -> Decode:
    llama = Llama(path, n_ctx=2560, n_batch=512, n_threads=threads, n_threads_batch=threads, flash_attn=flash,
                  verbose=False)  # fmt: skip
    sizes.append(llama_model_size(llama.model))

    def decode(prompt: list[int], new: int, each: Each) -> None:
        llama.reset()
        ids = prompt
        for _ in range(new):
            llama.eval(ids)
            logits = ctypes.cast(llama_get_logits_ith(llama.ctx, -1), ctypes.POINTER(ctypes.c_float * llama.n_vocab()))
            ids = [int(np.ctypeslib.as_array(logits.contents).argmax())]
            each(ids[0])

    return decode


choices = {"flash attention": True, "plain attention": False}
name, decode = fastest({name: lambda flash=flash: loaded(flash) for name, flash in choices.items()})
serve(decode, settings=f"Q8_0, {name}", nbytes=sizes[0], runs_on=versions("llama-cpp-python"))
