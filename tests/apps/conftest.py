"""A tiny model folder made here, random weights and a trained tokenizer, and a way to run the command line on it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from cutaway.apps.cli.main import main
from tests.tiny_lm import save_tokenizer

CONTEXT = 4096
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": True,
    "eos_token_id": 0,
}


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def cutaway(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs one command line in this process."""
    monkeypatch.delenv("NO_COLOR", raising=False)

    def run(*argv: object) -> Result:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        return Result(code, *capsys.readouterr())

    yield run


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of two blocks with 300 tokens, in Hugging Face's format."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    save_file(weights(), folder / "model.safetensors", {"format": "pt"})
    save_tokenizer(folder)
    return folder


@pytest.fixture
def broken(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def set_config(folder: Path, **over: Any) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | over), encoding="utf-8")


def weights() -> dict[str, torch.Tensor]:
    """Random weights of CONFIG under Hugging Face's names."""
    random = torch.Generator().manual_seed(0)
    width, mlp, kv = CONFIG["hidden_size"], CONFIG["intermediate_size"], 16
    shapes = {"model.embed_tokens.weight": (CONFIG["vocab_size"], width)}
    for layer in range(CONFIG["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        shapes |= {f"{block}self_attn.{name}_proj.weight": (width, width) for name in "qo"}
        shapes |= {f"{block}self_attn.{name}_proj.weight": (kv, width) for name in "kv"}
        shapes |= {f"{block}mlp.{name}_proj.weight": (mlp, width) for name in ("gate", "up")}
        shapes |= {f"{block}mlp.down_proj.weight": (width, mlp)}
    matrices = {name: torch.randn(shape, generator=random) * 0.3 for name, shape in shapes.items()}
    norms = [f"model.layers.{i}.{n}_layernorm" for i in range(2) for n in ("input", "post_attention")]
    return matrices | {f"{name}.weight": torch.ones(width) for name in [*norms, "model.norm"]}
