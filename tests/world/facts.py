"""A small model opened in every way, and all that a run of it gives, to be compared bit for bit.

Its matrices are large enough for several threads.
"""

from pathlib import Path

import torch
from torch import Tensor

import cutaway
from cutaway.lm import LM, load
from tests.tiny import TEXT, build, llama, save_tokenizer

TEXTS = ["the cat sat on the mat", "the dog"]
WAYS = ("int8", "full precision", "saved in int8")


def folder(at: Path) -> Path:
    """A folder with the model, and beside its files "q", the same in 8 bits."""
    config = llama(**TEXT, num_key_value_heads=2, hidden_size=256, intermediate_size=512, num_hidden_layers=2)
    build(config, scale=0.05).save_pretrained(at)
    save_tokenizer(at)
    cutaway.quantize(at, at / "q")
    return at


def opened(at: Path, way: str) -> LM:
    """The model of `folder`, opened that way."""
    if way == "saved in int8":
        return load(at / "q", device="cpu")
    return load(at, quantize="int8" if way == "int8" else None, device="cpu")


def facts(lm: LM) -> dict[str, Tensor]:
    """Weights, logits, a trace of every site, an edited pass, and a seeded generation with its own trace."""
    out = dict(lm.decoder.state_dict()) | {"logits of the pass": lm.logits(TEXTS)} | dict(lm.trace(TEXTS))
    edit = cutaway.Edit.scale("blocks.1.attn.z", 1.5, head=[0, 2], position=-1)
    out |= {f"edited {name}": value for name, value in lm.trace(TEXTS, "blocks.1.*", edits=[edit]).items()}
    run = lm.generate(TEXTS, max_new_tokens=4, do_sample=True, top_p=0.9, seed=3, sites="blocks.0.*")
    out |= {f"new {name}": value for name, value in run.trace.items()}
    return out | {f"step {step.index}": step.logits for step in run.steps}


def assert_same(lm: LM, expected: dict[str, Tensor]) -> None:
    """The same values, dtypes and devices, bit for bit."""
    found = facts(lm)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert (value.dtype, value.device) == (expected[name].dtype, expected[name].device), name
        assert torch.equal(value, expected[name]), name
