"""cutaway in 8 bits: a pass without and with recording every site, and generation likewise."""

import sys

import torch
from serve import versions
from tracing import serve

import cutaway

torch.set_num_threads(int(sys.argv[2]))
lm = cutaway.load(sys.argv[1], device="cpu")


def most(site: str) -> bool:
    return not site.endswith(("attn.scores", "attn.pattern"))


serve(
    {
        "pass": lambda ids, new: lm.logits(torch.tensor([ids])),
        "trace": lambda ids, new: lm.trace(torch.tensor([ids])),
        "trace, no scores": lambda ids, new: lm.trace(torch.tensor([ids]), most),
        "generate": lambda ids, new: lm.generate(torch.tensor([ids]), max_new_tokens=new),
        "generate, recorded": lambda ids, new: lm.generate(torch.tensor([ids]), max_new_tokens=new, sites=most),
        "generate, residuals": lambda ids, new: lm.generate(
            torch.tensor([ids]), max_new_tokens=new, sites="blocks.*.resid_post"
        ),
    },
    settings="int8, float32 between the layers",
    runs_on=versions("torch"),
)
