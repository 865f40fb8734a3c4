"""`cutaway model` from a config.json alone: published parameter counts, bytes as loading gives them, nothing read."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import init_empty_weights

from cutaway.apps.cli import model as verb
from cutaway.lm import load
from cutaway.model import architecture
from cutaway.weights.families import supported
from cutaway.weights.files.lazy import LazyTensor
from cutaway.weights.opening import quantize as write
from cutaway.weights.text_part import TEXT, TYPES
from tests.tiny import CONFIGS, build
from tests.weights.test_default_model import tiny_gguf

from .conftest import Run

HERE = Path(__file__).parents[1] / "published"
SHARED = Path(__file__).parents[2].parent / "shared" / "published"
OURS = tuple(supported())


def table(folder: Path) -> dict[str, str]:
    """{file: parameters} of a README's table."""
    readme = folder / "README.md"
    lines = readme.read_text(encoding="utf-8").splitlines() if readme.is_file() else []
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: row[4] for row in rows if row[0].endswith(".json")}


NO_CONFIGS = ("lora", "tokenizer", "generation", "gguf/")  # other files
FILES = {
    folder / name: count
    for folder in (HERE, SHARED)
    for name, count in table(folder).items()
    if not name.startswith(NO_CONFIGS)
}
# Copies of one layer, and one of a smaller vocabulary: with what the published file says, the published count.
EDITED: dict[str, dict[str, Any]] = {
    "gpt-neox-20b-1layer": {"num_hidden_layers": 44}, "gpt-j-6b-1layer": {"n_layer": 28},
    "phi-1": {"vocab_size": 51200},
}  # fmt: skip
CLASSIFIER = "skywork-reward-llama-3.1-8b-v0.2"
ROUNDED = {"exaone-4.0-32b": 32_003_216_384}  # published as 32.0 B; transformers' model has these


def config_of(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) | EDITED.get(file.stem, {})


def is_ours(file: Path) -> bool:
    config = config_of(file)
    return config.get("model_type", "gpt2") in OURS and file.stem != CLASSIFIER


def packed(file: Path) -> str:
    """The method of another tool that packed the weights in a form that is not read."""
    method = config_of(file).get("quantization_config", {}).get("quant_method", "")
    return method if method in ("gptq", "awq") else ""


COUNTS = {
    file: ROUNDED.get(file.stem) or int(count.split()[0].replace(",", ""))
    for file, count in FILES.items()
    if is_ours(file) and count and not packed(file)
}
PACKED = [file for file in FILES if packed(file)]
MULTIMODAL = {file: count for file, count in FILES.items() if config_of(file).get("model_type") in TYPES}
SENT_AWAY = [file for file in FILES if not is_ours(file) and file not in MULTIMODAL]
NOT_HERE = [pytest.param(None, marks=pytest.mark.skip("no ../shared here"))]


def alone(config: Path | dict[str, Any], folder: Path) -> Path:
    """A folder that holds only that config.json."""
    text = json.dumps(config) if isinstance(config, dict) else config.read_text(encoding="utf-8")
    (folder / "config.json").write_text(text, encoding="utf-8")
    return folder


def name_of(value: object) -> str | None:
    return "/".join(value.parts[-3:]) if isinstance(value, Path) else None


@pytest.mark.parametrize(("file", "count"), COUNTS.items(), ids=name_of)
def test_a_published_config_alone_gives_the_published_count(cutaway: Run, tmp_path: Path, file: Path, count: int):
    done = cutaway("model", "--model", alone(config_of(file), tmp_path), "--json")
    data = json.loads(done.out)
    assert done.code == 0 and data["parameters"] == count
    assert data["bytes"]["float32"] == 4 * count and data["bytes"]["bfloat16"] == data["bytes"]["float16"] == 2 * count
    assert count < data["opened"] == data["bytes"]["int8"] < 3 * count  # a small one is mostly its embedding


@pytest.mark.parametrize("file", MULTIMODAL or NOT_HERE, ids=name_of)
def test_a_multimodal_one_has_its_text_models_count(cutaway: Run, tmp_path: Path, file: Path):
    config = transformers.AutoConfig.from_pretrained(alone(file, tmp_path))
    with init_empty_weights():
        whole = transformers.AutoModelForImageTextToText.from_config(config)
    whole.tie_weights()
    count = int(MULTIMODAL[file].replace(",", ""))
    assert count == sum(parameter.numel() for parameter in whole.parameters())  # a tied one counts once
    count -= sum(parameter.numel() for name, parameter in whole.named_parameters() if not TEXT.match(name))
    done = cutaway("model", "--model", tmp_path, "--json")
    assert done.code == 0 and json.loads(done.out)["parameters"] == count
    assert f"{config.model_type}: its text model alone" in done.err


@pytest.mark.parametrize("file", PACKED or NOT_HERE, ids=name_of)
def test_a_published_one_that_another_tool_packed_is_refused(cutaway: Run, tmp_path: Path, file: Path):
    done = cutaway("model", "--model", alone(file, tmp_path))
    assert done.code == 2 and done.out == "" and done.err.count("\n") == 1
    assert f"a quantized checkpoint: {packed(file).upper()}, 4 bits a weight" in done.err


@pytest.mark.parametrize("file", SENT_AWAY or NOT_HERE, ids=name_of)
def test_another_family_is_refused_in_one_sentence_that_lists_ours(cutaway: Run, tmp_path: Path, file: Path):
    done = cutaway("model", "--model", alone(file, tmp_path))
    assert done.code == 2 and done.out == "" and done.err.count("\n") == 1
    config = json.loads(file.read_text(encoding="utf-8"))
    if file.stem.startswith("skywork"):
        assert "LlamaForSequenceClassification" in done.err and "another head than a language model's" in done.err
    else:
        assert repr(config["model_type"]) in done.err and f"one of {', '.join(OURS)}" in done.err


def test_a_classifier_and_another_family_are_named(cutaway: Run, tmp_path: Path):
    config = json.loads((HERE / "llama" / "llama-3.2-1b-instruct.json").read_text())
    done = cutaway("model", "--model", alone(config | {"architectures": ["LlamaForSequenceClassification"]}, tmp_path))
    assert done.code == 2 and "['LlamaForSequenceClassification']" in done.err and "another head" in done.err
    done = cutaway("model", "--model", alone({"model_type": "mamba"}, tmp_path))
    assert done.code == 2 and "'mamba'" in done.err and f"one of {', '.join(OURS)}" in done.err


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor may be read."""

    def refuse(*_: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(LazyTensor, "read", refuse)
    monkeypatch.setattr(LazyTensor, "mapped", refuse)


def said(cutaway: Run, folder: Path, *more: str) -> dict[str, Any]:
    done = cutaway("model", "--model", folder, "--device", "cpu", "--json", *more)
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.mark.parametrize("stored", ["float32", "float16"])
@pytest.mark.parametrize("name", ["opt-350m-like", "gpt2", "gpt2-untied", "llama", "llama-tied", "llama-biases"])
def test_the_same_without_weights_with_them_and_loaded(
    cutaway: Run, request: pytest.FixtureRequest, tmp_path: Path, name: str, stored: str
):
    whole, bare = tmp_path / "whole", tmp_path / "bare"
    build(CONFIGS[name]).to(getattr(torch, stored)).save_pretrained(whole)
    bare.mkdir()
    shutil.copy(whole / "config.json", bare)
    loaded = {
        how: load(whole, quantize=None if how[0] == "none" else how[0], dtype=how[1], device="cpu").decoder
        for how in (("none", "float32"), ("none", "bfloat16"), ("int8", "float32"), ("llm-int8", "bfloat16"))
    }
    request.getfixturevalue("unread")
    for (quantize, dtype), decoder in loaded.items():
        for folder in (whole, bare):
            data = said(cutaway, folder, "--quantize", quantize, "--dtype", dtype)
            assert data["modules"] == [vars(row) for row in architecture.rows(decoder)]
            assert data["opened"] == architecture.nbytes(decoder)
            assert data["parameters"] == architecture.parameters(decoder)


def test_a_gguf_by_its_header(cutaway: Run, unread: None, tmp_path: Path):
    tiny_gguf(tmp_path / "tiny.gguf")
    data = said(cutaway, tmp_path / "tiny.gguf", "--quantize", "none")
    assert data["parameters"] == 11 * 4 + 3 * 4 + 4 * 4 * 4 + 3 * 4 * 6 and data["opened"] == 4 * data["parameters"]


def test_a_saved_folder_has_the_bytes_of_what_it_holds(cutaway: Run, tiny_folder: Path, tmp_path: Path):
    out = write(tiny_folder, tmp_path / "out", keep=["lm_head"])
    data = said(cutaway, out)
    assert data["opened"] == architecture.nbytes(load(out, device="cpu").decoder) < data["bytes"]["int8"]
    assert cutaway("model", "--model", out, "--quantize", "none").code == 2


def test_weights_that_are_not_whole_are_told_and_wrong_ones_refused(cutaway: Run, broken: Path):
    (broken / "model.safetensors").rename(broken / "elsewhere")
    assert said(cutaway, broken)["parameters"] > 0
    (broken / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    done = cutaway("model", "--model", broken, "--json")
    assert done.code == 0 and " lack model-00001-of-00002.safetensors: shapes are those of config.json" in done.err
    (broken / "model.safetensors.index.json").unlink()
    (broken / "elsewhere").rename(broken / "model.safetensors")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    done = cutaway("model", "--model", broken)
    assert done.code == 2 and "use the config.json that belongs to these weights" in done.err


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 548105171\n"
NOT_WHOLE = {
    "pointer": (lambda data: POINTER, "Git LFS pointer to a file of 548.1 MB"),
    "empty": (lambda data: b"", "an empty file"),
    "cut": (lambda data: data[: len(data) // 2], ""),
    "zeros": (lambda data: bytes(len(data)), "zeros, as an interrupted download leaves them"),
}
FORMS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "a shard")


@pytest.mark.parametrize("kind", NOT_WHOLE)
@pytest.mark.parametrize("form", FORMS)
def test_a_clone_whose_large_files_did_not_come_has_its_shapes(cutaway: Run, tmp_path: Path, form: str, kind: str):
    model = build(CONFIGS["llama-gqa"])
    model.save_pretrained(tmp_path, max_shard_size="1GB" if form in FORMS[:2] else "8KB")
    if form == "pytorch_model.bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / form)
    expected = said(cutaway, tmp_path)
    file = tmp_path / form if form != "a shard" else sorted(tmp_path.glob("model-*"))[1]
    spoil, what = NOT_WHOLE[kind]
    file.write_bytes(spoil(file.read_bytes()))
    done = cutaway("model", "--model", tmp_path, "--device", "cpu", "--json")
    assert done.code == 0 and json.loads(done.out) == expected
    if form.endswith("index.json"):  # nothing says which weights there are
        assert done.err == ""
    else:
        assert file.name in done.err and what in done.err and done.err.endswith(": shapes are those of config.json\n")
    assert cutaway("model", "--model", tmp_path).code == 0
    refused = cutaway("trace", "1", "--model", tmp_path)
    assert refused.code == 2 and refused.err.count("\n") == 1 and file.name in refused.err
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    assert cutaway("model", "--model", tmp_path).code == 2  # packed all the same


def test_a_clone_of_pointers_only(cutaway: Run, tiny_folder: Path, tmp_path: Path):
    """Its tokenizer too: config.json is no large file."""
    expected = said(cutaway, tiny_folder)
    folder = shutil.copytree(tiny_folder, tmp_path / "clone")
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).write_bytes(POINTER)
    done = cutaway("model", "--model", folder, "--device", "cpu", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out) == expected | {"model": str(folder)}
    assert "which is a Git LFS pointer to a file of 548.1 MB" in done.err
    assert cutaway("model", "--model", folder).code == 0
    (folder / "config.json").write_bytes(POINTER)
    done = cutaway("model", "--model", folder)
    assert done.code == 2 and "config.json, which is a Git LFS pointer" in done.err


def test_a_packed_model_is_refused_before_its_gigabytes_come(cutaway: Run, tmp_path: Path):
    config = json.loads((HERE / "llama" / "llama-3.2-1b-instruct.json").read_text())
    done = cutaway("model", "--model", alone(config | {"quantization_config": {"quant_method": "gptq"}}, tmp_path))
    assert done.code == 2 and "gptq" in done.err.lower() and done.err.count("\n") == 1


def test_each_precision_is_held_against_the_memory(cutaway: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    folder = alone(HERE / "opt" / "opt-1.3b.json", tmp_path)
    monkeypatch.setattr(verb, "_memory", lambda: 4_000_000_000)
    lines = [line.split() for line in cutaway("model", "--model", folder).out.splitlines()[-5:]]
    assert lines == [
        ["float32", "5.3", "GB", "does", "not", "fit"],
        ["bfloat16", "2.6", "GB", "fits"],
        ["float16", "2.6", "GB", "fits"],
        ["int8", "1.6", "GB", "fits"],
        ["this", "machine", "has", "4.0", "GB", "of", "memory"],
    ]
    monkeypatch.setattr(verb, "_memory", lambda: None)
    assert "fit" not in cutaway("model", "--model", folder).out


def test_the_memory_is_the_machines_or_what_a_container_may_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(verb, "CGROUP", tmp_path / "memory.max")
    machine = verb._memory()
    assert machine is not None and machine > 1 << 28
    (tmp_path / "memory.max").write_text("max\n")
    assert verb._memory() == machine
    (tmp_path / "memory.max").write_text(f"{1 << 20}\n")
    assert verb._memory() == 1 << 20
