"""The address space of a load, under `ulimit -v` of three times the model's bytes: one mapping a file, no more."""

import json
import os
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cutaway.quant.linear import Int8Linear
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.files import SAVED
from cutaway.weights.files.safetensors import _written_header
from cutaway.weights.opening import outline
from cutaway.weights.save import LAYOUT, WEIGHTS
from tests.tiny import opt

LARGE = opt(hidden_size=2048, word_embed_proj_dim=2048, ffn_dim=8192, num_attention_heads=32, num_hidden_layers=4,
            vocab_size=50272)  # 303 million parameters  # fmt: skip
SCRIPT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
import torch, cutaway
lm = cutaway.load(sys.argv[2], device="cpu")
print(lm.logits(torch.tensor([[2, 5, 7]])).shape[-1])
"""


def sparse(path: Path, tensors: dict[str, Tensor]) -> int:
    """A safetensors file of zeros that takes no disk. Its bytes."""
    header = _written_header({name: (each.dtype, tuple(each.shape)) for name, each in tensors.items()}, {})
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(prod(each.shape) * each.dtype.itemsize for each in tensors.values()))
    return path.stat().st_size


def loads_in(nbytes: int, folder: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # each thread reserves a stack and an arena of its own
    command = [sys.executable, "-c", SCRIPT, str(nbytes), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == str(LARGE.vocab_size), done.stderr[-600:]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder as transformers writes one, in float16, and the bytes of its weights."""
    import transformers

    folder = tmp_path_factory.mktemp("large")
    LARGE.save_pretrained(folder)
    with torch.device("meta"):
        state = transformers.OPTForCausalLM(LARGE).half().state_dict()
    del state["lm_head.weight"]
    return folder, sparse(folder / "model.safetensors", state)


def test_a_checkpoint_loads_in_three_times_its_address_space(checkpoint: tuple[Path, int]):
    loads_in(3 * checkpoint[1], checkpoint[0])


def test_a_saved_folder_loads_in_three_times_its_address_space(checkpoint: tuple[Path, int], tmp_path: Path):
    """Every matrix is mapped: a mapping for each, from the file's beginning, would take 18 GB."""
    source = open_checkpoint(checkpoint[0])
    decoder = outline(source, quantize="int8", dtype="float32", device="cpu")
    assert isinstance(decoder.unembed.head, Int8Linear)
    nbytes = sparse(tmp_path / WEIGHTS, dict(decoder.state_dict()))
    (tmp_path / "config.json").write_text((checkpoint[0] / "config.json").read_text())
    manifest = {"layout": LAYOUT, "mode": "int8", "files": {WEIGHTS: ""}}
    (tmp_path / SAVED).write_text(json.dumps(manifest))
    loads_in(3 * nbytes, tmp_path)
