"""open_folder: which of a folder's files are taken, and what is said when they are not all there."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cutaway.ground.errors import BadCheckpoint
from cutaway.weights.files import open_folder


def put(folder: Path, name: str, **tensors: float) -> None:
    state = {key: torch.full((2,), value) for key, value in tensors.items()}
    if name.endswith(".bin"):
        torch.save(state, folder / name)
    else:
        save_file(state, folder / name)


def index(folder: Path, name: str, **files: str) -> None:
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": files}))


def first(folder: Path) -> dict[str, float]:
    return {name: tensor.read()[0].item() for name, tensor in open_folder(folder).items()}


def test_safetensors_come_before_pickles_and_an_index_before_a_file(tmp_path: Path) -> None:
    put(tmp_path, "pytorch_model.bin", a=1.0)
    assert first(tmp_path) == {"a": 1}
    put(tmp_path, "part-1.bin", a=2.0)
    index(tmp_path, "pytorch_model.bin.index.json", a="part-1.bin")
    assert first(tmp_path) == {"a": 2}
    put(tmp_path, "model.safetensors", a=3.0)
    assert first(tmp_path) == {"a": 3}
    put(tmp_path, "one.safetensors", a=4.0)
    put(tmp_path, "two.safetensors", b=5.0)
    index(tmp_path, "model.safetensors.index.json", a="one.safetensors", b="two.safetensors")
    assert first(tmp_path) == {"a": 4, "b": 5}


def test_the_index_decides_between_twins_and_drops_nothing(tmp_path: Path) -> None:
    put(tmp_path, "one.safetensors", a=1.0, extra=9.0)
    put(tmp_path, "two.safetensors", a=2.0, b=3.0)
    index(tmp_path, "model.safetensors.index.json", a="one.safetensors", b="two.safetensors")
    assert first(tmp_path) == {"a": 1, "b": 3, "extra": 9}


def test_a_single_file_of_another_name_will_do(tmp_path: Path) -> None:
    put(tmp_path, "mine.safetensors", a=1.0)
    assert first(tmp_path) == {"a": 1}
    put(tmp_path, "yours.safetensors", a=1.0)
    with pytest.raises(BadCheckpoint, match=r"found 2 \*.safetensors files and no index in"):
        open_folder(tmp_path)


def test_a_folder_without_weights_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint) as caught:
        open_folder(tmp_path)
    for name in ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json"):
        assert name in str(caught.value)
    assert f"no weights in {tmp_path}" in str(caught.value)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    put(tmp_path, "one.safetensors", a=1.0)
    index(tmp_path, "model.safetensors.index.json", a="one.safetensors", b="two.safetensors", c="three.safetensors")
    with pytest.raises(BadCheckpoint, match=r"found 1 of 3 shards in .*expected also three.safetensors, two.saf"):
        open_folder(tmp_path)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path: Path) -> None:
    put(tmp_path, "one.safetensors", a=1.0)
    index(tmp_path, "model.safetensors.index.json", a="one.safetensors", b="one.safetensors")
    with pytest.raises(BadCheckpoint, match=r"found no 'b' in one.safetensors"):
        open_folder(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}', "\xff",
                                  '{"weight_map": {"a": "../../x.safetensors"}}'])  # fmt: skip
def test_a_useless_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="latin-1")
    with pytest.raises(BadCheckpoint, match=r"found model.safetensors.index.json without a usable weight_map"):
        open_folder(tmp_path)
