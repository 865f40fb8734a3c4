"""transformers with forward hooks that keep what every module returns, in the dtype given after the task."""

import sys

import torch
from serve import versions
from tracing import serve
from transformers import AutoModelForCausalLM

path, threads, dtype = sys.argv[1:4]
torch.set_num_threads(int(threads))
model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()


def plain(ids: list[int], new: int) -> object:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits


def generate(ids: list[int], new: int) -> object:
    with torch.inference_mode():
        return model.generate(torch.tensor([ids]), max_new_tokens=new, min_new_tokens=new, do_sample=False)


def hooked(run):
    def recorded(ids: list[int], new: int) -> object:
        kept: dict[str, list[torch.Tensor]] = {}

        def keep(name: str):
            def hook(module, args, output):
                value = output[0] if isinstance(output, tuple) else output
                if isinstance(value, torch.Tensor):
                    kept.setdefault(name, []).append(value.detach().clone())

            return hook

        hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
        run(ids, new)
        for hook in hooks:
            hook.remove()
        # [B, T, ...], or, where a module takes all places for one batch, [T, ...]
        return {name: torch.cat(values, 1 if values[0].ndim > 2 else 0) for name, values in kept.items()}

    return recorded


serve(
    {"pass": plain, "trace, no scores": hooked(plain), "generate": generate, "generate, recorded": hooked(generate)},
    settings=f"{dtype}, sdpa",
    runs_on=versions("torch", "transformers"),
)
