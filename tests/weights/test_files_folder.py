"""open_folder: which of a folder's files are read, and the message when some are missing."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import _add_variant

import cutaway
from cutaway.ground.errors import BadCheckpoint
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.files import SAVED, files_of, missing_from, model_path, open_file, open_folder
from cutaway.weights.hub import chosen_files
from cutaway.weights.opening import described, quantize
from cutaway.weights.save import sha256
from tests.tiny import build, gpt2, set_config

IDS = torch.tensor([[3, 7, 10, 2]])


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


def notes(folder: Path) -> list[str]:
    said: list[str] = []
    open_folder(folder, said.append)
    return said


def test_a_whole_file_comes_before_an_index_and_safetensors_before_pickles(tmp_path: Path) -> None:
    put(tmp_path, "part-1.bin", a=1.0)
    index(tmp_path, "pytorch_model.bin.index.json", a="part-1.bin")
    assert first(tmp_path) == {"a": 1}
    put(tmp_path, "pytorch_model.bin", a=2.0)
    assert first(tmp_path) == {"a": 2}
    put(tmp_path, "one.safetensors", a=3.0)
    put(tmp_path, "two.safetensors", b=4.0)
    index(tmp_path, "model.safetensors.index.json", a="one.safetensors", b="two.safetensors")
    assert first(tmp_path) == {"a": 3, "b": 4}
    put(tmp_path, "model.safetensors", a=5.0)
    assert first(tmp_path) == {"a": 5}
    assert notes(tmp_path) == [
        "model.safetensors is read; model.safetensors.index.json and its 2 shards and pytorch_model.bin and "
        "pytorch_model.bin.index.json and its 1 shard beside it are not"
    ]


def test_a_folder_without_a_choice_says_nothing(tmp_path: Path) -> None:
    put(tmp_path, "model.safetensors", a=1.0)
    put(tmp_path, "optimizer.safetensors", a=2.0)
    assert notes(tmp_path) == []
    index(tmp_path, "model.safetensors.index.json", a="gone.safetensors")
    assert notes(tmp_path) == ["model.safetensors is read; model.safetensors.index.json beside it is not"]


def test_of_two_tensors_of_one_name_the_last_file_has_it_as_in_transformers(tmp_path: Path) -> None:
    put(tmp_path, "one.safetensors", a=1.0, extra=9.0)
    put(tmp_path, "two.safetensors", a=2.0, b=3.0)
    index(tmp_path, "model.safetensors.index.json", a="one.safetensors", b="two.safetensors")
    assert first(tmp_path) == {"a": 2, "b": 3, "extra": 9}
    assert notes(tmp_path) == [
        "a is read from two.safetensors, where model.safetensors.index.json names one.safetensors"
    ]


def test_a_variant_is_read_where_it_is_the_only_one(tmp_path: Path) -> None:
    put(tmp_path, "model.fp16.safetensors", a=1.0)
    assert first(tmp_path) == {"a": 1}
    assert notes(tmp_path) == [f"model.fp16.safetensors is read, the only weights in {tmp_path}"]
    put(tmp_path, "model.bf16.safetensors", a=2.0)
    with pytest.raises(BadCheckpoint, match=r"found weights of 2 variants .*model.(bf|fp)16.*keep one of them"):
        open_folder(tmp_path)
    put(tmp_path, "model.safetensors", a=3.0)
    assert first(tmp_path) == {"a": 3}
    beside = "model.bf16.safetensors and model.fp16.safetensors beside it are not"
    assert notes(tmp_path) == [f"model.safetensors is read; {beside}"]


def test_the_variants_index_is_named_as_transformers_names_it(tmp_path: Path) -> None:
    put(tmp_path, "x.safetensors", a=1.0)
    put(tmp_path, "y.safetensors", b=2.0)
    name = _add_variant("model.safetensors.index.json", "fp16")
    index(tmp_path, name, a="x.safetensors", b="y.safetensors")
    assert first(tmp_path) == {"a": 1, "b": 2}


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_a_variant_in_shards_opens_through_its_index_as_in_transformers(tmp_path: Path, variant: str) -> None:
    build(gpt2()).save_pretrained(tmp_path, variant=variant, max_shard_size="20KB")
    shards = sorted(tmp_path.glob(f"model.{variant}-*-of-*.safetensors"))
    index_name = _add_variant("model.safetensors.index.json", variant)
    assert len(shards) > 2 and (tmp_path / index_name).is_file()
    with warnings.catch_warnings(action="ignore"):
        expected = AutoModelForCausalLM.from_pretrained(tmp_path, variant=variant)(IDS).logits
    lm = cutaway.load(tmp_path, quantize=None)
    torch.testing.assert_close(lm.logits(IDS), expected, rtol=1e-4, atol=1e-4)
    assert lm.notes == [f"{index_name} is read, the only weights in {tmp_path}"]
    assert missing_from(tmp_path) is None and files_of(tmp_path) == shards
    names = [file.name for file in tmp_path.iterdir()]
    assert chosen_files("m", [*names, "README.md", "tf_model.h5"]) == sorted(names)
    (tmp_path / index_name).unlink()
    with pytest.raises(
        BadCheckpoint, match=rf"{len(shards)} \*.safetensors files and no index .*fetch {index_name} too"
    ):
        open_folder(tmp_path)


def test_every_other_file_of_weights_is_said_not_to_be_read(tmp_path: Path) -> None:
    """Whatever the choice was between."""
    put(tmp_path, "model.safetensors", a=1.0)
    (tmp_path / "m-Q4_0.gguf").write_bytes(b"GGUF")
    (tmp_path / "mmproj.gguf").write_bytes(b"GGUF")
    put(tmp_path, "model.fp16.safetensors", a=1.0)
    put(tmp_path, "mine.safetensors", a=1.0)
    beside = "m-Q4_0.gguf and mine.safetensors and model.fp16.safetensors beside it are not"
    assert notes(tmp_path) == [f"model.safetensors is read; {beside}"]
    for number in range(5):
        put(tmp_path, f"x{number}.bin", a=1.0)  # no name that anything reads
        put(tmp_path, f"x{number}.safetensors", a=1.0)
    said = "m-Q4_0.gguf and mine.safetensors and model.fp16.safetensors and x0.safetensors and 4 more beside it are not"
    assert notes(tmp_path) == [f"model.safetensors is read; {said}"]


def test_only_weights_is_said_where_they_are_the_only_ones(tmp_path: Path) -> None:
    put(tmp_path, "a.safetensors", a=1.0)
    assert notes(tmp_path) == [f"a.safetensors is read, the only weights in {tmp_path}"]
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert notes(tmp_path) == ["a.safetensors is read; x.gguf beside it is not"]
    put(tmp_path, "b.safetensors", a=2.0)
    said: list[str] = []
    assert open_folder(tmp_path, said.append, "b.safetensors")["a"].read()[0] == 2
    assert said == ["b.safetensors is read; a.safetensors and x.gguf beside it are not"]


NAMED = {"one file": ("mine.safetensors",), "an index": ("mine.safetensors.index.json", "x.safetensors")}


@pytest.mark.parametrize("beside", ["model.safetensors", "other.safetensors", "m.gguf", "pytorch_model.bin", None])
@pytest.mark.parametrize("kind", NAMED)
def test_what_config_json_names_is_what_every_question_is_about(tmp_path: Path, kind: str, beside: str | None) -> None:
    build(gpt2(), seed=1).save_pretrained(tmp_path)
    start, weights = NAMED[kind][0], NAMED[kind][-1]
    (tmp_path / "model.safetensors").rename(tmp_path / weights)
    if start != weights:
        index(tmp_path, start, **dict.fromkeys(open_file(tmp_path / weights), weights))
    set_config(tmp_path, transformers_weights=start)
    if beside == "m.gguf":
        (tmp_path / beside).write_bytes(b"GGUF")
    elif beside:
        put(tmp_path, beside, a=1.0)
    with warnings.catch_warnings(action="ignore"):
        expected = AutoModelForCausalLM.from_pretrained(tmp_path)(IDS).logits
    torch.testing.assert_close(cutaway.load(tmp_path, quantize=None).logits(IDS), expected, rtol=1e-4, atol=1e-4)
    assert missing_from(tmp_path) is None and model_path(tmp_path) == tmp_path
    assert files_of(tmp_path) == [tmp_path / weights] and described(tmp_path)[0].tensors
    names = [file.name for file in tmp_path.iterdir()]
    expected_files = {*NAMED[kind], "config.json", "generation_config.json"}
    assert expected_files <= set(chosen_files("m", names, start))
    (tmp_path / start).unlink()
    assert missing_from(tmp_path) == "weights" and described(tmp_path)[0].tensors == {}
    for ask in (open_checkpoint, cutaway.load):
        with pytest.raises(BadCheckpoint, match=f"found no {start} in .*as config.json names it"):
            ask(tmp_path)


def test_the_file_that_config_json_names_comes_first(tmp_path: Path) -> None:
    put(tmp_path, "model.safetensors", a=1.0)
    put(tmp_path, "mine.safetensors", a=2.0)
    assert open_folder(tmp_path, named="mine.safetensors")["a"].read()[0] == 2
    for name, message in (
        ("../x.safetensors", "found transformers_weights='../x"),
        ("no.safetensors", "found no no.saf"),
    ):
        with pytest.raises(BadCheckpoint, match=message):
            open_folder(tmp_path, named=name)


def test_a_single_file_of_another_name_will_do(tmp_path: Path) -> None:
    put(tmp_path, "mine.safetensors", a=1.0)
    assert first(tmp_path) == {"a": 1}
    put(tmp_path, "yours.safetensors", a=1.0)
    with pytest.raises(BadCheckpoint, match=r"found 2 \*.safetensors files and no index in"):
        open_folder(tmp_path)


def test_a_folder_without_weights_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadCheckpoint) as caught:
        open_folder(tmp_path)
    for name in ("model.safetensors", "pytorch_model.bin", ".gguf"):
        assert name in str(caught.value)
    assert f"no weights in {tmp_path}" in str(caught.value)


def test_an_index_left_beside_a_whole_file_is_not_read_whether_its_shards_are_there_or_not(tmp_path: Path) -> None:
    """Case f6: yesterday's shards, and today's one file copied in; the numbers are transformers'."""
    build(gpt2(), seed=1).save_pretrained(tmp_path, max_shard_size="20KB")
    build(gpt2(), seed=2).save_pretrained(tmp_path / "new")
    (tmp_path / "new" / "model.safetensors").rename(tmp_path / "model.safetensors")
    shards = list(tmp_path.glob("model-*-of-*"))
    assert len(shards) > 2
    for beside in (f"model.safetensors.index.json and its {len(shards)} shards beside it are not",
                   "model.safetensors.index.json beside it is not"):  # fmt: skip
        with warnings.catch_warnings(action="ignore"):
            expected = AutoModelForCausalLM.from_pretrained(tmp_path)(IDS).logits
        torch.testing.assert_close(cutaway.load(tmp_path, quantize=None).logits(IDS), expected, rtol=1e-4, atol=1e-4)
        assert open_checkpoint(tmp_path).notes == [f"model.safetensors is read; {beside}"]
        for shard in shards:
            shard.unlink(missing_ok=True)


@pytest.mark.parametrize("form", ["safetensors", "bin", "old bin", "shards"])
def test_a_saved_model_has_the_hashes_of_the_files_it_was_made_from(tmp_path: Path, form: str) -> None:
    model = build(gpt2())
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB" if form == "shards" else "1GB")
    if "bin" in form:
        (tmp_path / "model" / "model.safetensors").unlink()
        file = tmp_path / "model" / "pytorch_model.bin"
        torch.save(model.state_dict(), file, _use_new_zipfile_serialization=form == "bin")
    files = [*(tmp_path / "model").glob("*.safetensors"), *(tmp_path / "model").glob("*.bin")]
    source = json.loads((quantize(tmp_path / "model", tmp_path / "out") / SAVED).read_text())["source"]
    assert source["files"] == {file.name: sha256(file) for file in files}
    assert (len(files) > 1) == (form == "shards")


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    """Case o4."""
    build(gpt2()).save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("model-*-of-*"))
    shards[1].unlink()
    found = rf"found {len(shards) - 1} of {len(shards)} shards in .*; expected also {shards[1].name}, as model.safete"
    with pytest.raises(BadCheckpoint, match=found):
        cutaway.load(tmp_path)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    put(tmp_path, "one.safetensors", a=1.0)
    index(tmp_path, "model.safetensors.index.json", a="one.safetensors", b="two.safetensors", c="three.safetensors")
    with pytest.raises(BadCheckpoint, match=r"found 1 of 3 shards in .*expected also three.safetensors, two.saf"):
        open_folder(tmp_path)


def test_a_tensor_that_no_shard_has_is_said_and_one_in_another_shard_is_read(tmp_path: Path) -> None:
    put(tmp_path, "one.safetensors", a=1.0)
    put(tmp_path, "two.safetensors", b=2.0)
    index(tmp_path, "model.safetensors.index.json", a="one.safetensors", b="one.safetensors", c="two.safetensors")
    assert first(tmp_path) == {"a": 1, "b": 2}
    assert notes(tmp_path) == [
        "model.safetensors.index.json names c, which no shard holds",
        "b is read from two.safetensors, where model.safetensors.index.json names one.safetensors",
    ]


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}', "\xff",
                                  '{"weight_map": {"a": "../../x.safetensors"}}'])  # fmt: skip
def test_a_useless_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="latin-1")
    with pytest.raises(BadCheckpoint, match=r"found model.safetensors.index.json without a usable weight_map"):
        open_folder(tmp_path)
