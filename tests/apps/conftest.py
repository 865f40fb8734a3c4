"""A tiny model folder made here, random weights and a trained tokenizer, and a way to run the command line on it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from cutaway.apps.cli.main import main
from tests.tiny import TEXT, build, llama, save_tokenizer

CONTEXT = 4096
CONFIG = llama(
    **TEXT, num_hidden_layers=2, num_key_value_heads=2, max_position_embeddings=CONTEXT, tie_word_embeddings=True
)


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
    build(CONFIG).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="session")
def chatty(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a chat template, which writes BOS itself."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path_factory.mktemp("chatty") / "model"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"chat_template": TEMPLATE, "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture
def broken(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def set_config(folder: Path, **over: Any) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG.to_dict() | over), encoding="utf-8")


def weights() -> dict[str, torch.Tensor]:
    """Those of the tiny model, to be damaged."""
    return {name: tensor.clone() for name, tensor in build(CONFIG).state_dict().items() if name != "lm_head.weight"}
