"""`cutaway models` over a cache of what people have: old configs, several files in one repository, packed weights."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.tiny import build, gpt2, llama, opt, save_tokenizer
from tests.weights.gguf_files import llama_file

from .conftest import Run

FAMILIES = {"gpt2": gpt2(), "llama": llama(), "opt": opt()}


def snapshot(hub: Path, name: str) -> Path:
    folder = hub / f"models--{name.replace('/', '--')}" / "snapshots" / "0123abc"
    folder.mkdir(parents=True)
    (folder.parent.parent / "refs").mkdir()
    (folder.parent.parent / "refs" / "main").write_text("0123abc")
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "cutaway"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def change(folder: Path, *gone: str, **now: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | now
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key not in gone}))


@pytest.mark.parametrize("said", ["neither", "model_type", "architectures"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_that_says_its_family_in_either_way(cutaway: Run, hub: Path, family: str, said: str):
    good, other = snapshot(hub, "some/good"), snapshot(hub, "some/other")
    build(FAMILIES[family]).save_pretrained(good)
    shutil.copytree(good, other, dirs_exist_ok=True)
    change(other, *({"model_type", "architectures"} - {said}))
    done = cutaway("models", "--json")
    assert done.code == 0, done.err
    data = json.loads(done.out)
    listed = {row["name"]: row["family"] for row in data["hub_cache"]}
    assert listed.pop("some/good") == family
    one = cutaway("models", "--model", other, "--json")
    if listed:
        assert json.loads(one.out)["models"][0]["family"] == listed["some/other"] == family
    else:
        assert one.code == 2 and one.err.startswith("cutaway: found ") and data["hub_others"] == 1
    assert cutaway("models").code == 0


def test_old_gpt2_configs_say_no_model_type(cutaway: Run, hub: Path):
    folder = snapshot(hub, "openai-community/gpt2")
    build(gpt2()).save_pretrained(folder)
    change(folder, "model_type")
    done = cutaway("models")
    assert done.code == 0 and "openai-community/gpt2  gpt2" in done.out


def test_several_gguf_in_one_repository_are_listed_with_what_to_name(cutaway: Run, hub: Path):
    folder = snapshot(hub, "some/gguf")
    llama_file(folder / "m-Q4_0.gguf")
    done = cutaway("models", "--json")
    assert json.loads(done.out)["hub_cache"][0]["family"] == "llama"
    llama_file(folder / "m-Q8_0.gguf")
    data = json.loads(cutaway("models", "--json").out)
    assert data["hub_cache"] == [] and data["hub_others"] == 0
    (row,) = data["hub_several"]
    assert row["name"] == "some/gguf" and row["found"].endswith(": m-Q4_0.gguf, m-Q8_0.gguf")
    out = cutaway("models").out
    assert f"some/gguf: {row['found']}; name one of them, for example {folder / 'm-Q4_0.gguf'}" in out
    assert "does not run" not in out


def test_bytes_are_those_on_disk_each_once(cutaway: Run, hub: Path):
    folder = snapshot(hub, "some/model")
    build(llama()).save_pretrained(folder)
    before = sum(file.stat().st_size for file in folder.iterdir())
    blobs, older = folder.parent.parent / "blobs", folder.parent / "older"
    blobs.mkdir()
    older.mkdir()
    (folder / "model.safetensors").rename(blobs / "abc")
    for each in (folder, older):  # as the hub's cache keeps one file for two snapshots
        (each / "model.safetensors").symlink_to(blobs / "abc")
    (blobs / "def").write_bytes(bytes(1000))  # of a snapshot before
    (row,) = json.loads(cutaway("models", "--json").out)["hub_cache"]
    assert row["bytes"] == before + 1000 + len("0123abc")
    assert "on disk" in cutaway("models").out


def test_the_default_model_counts_its_8_bits_too(cutaway: Run, hub: Path, monkeypatch: pytest.MonkeyPatch):
    fetched = hub.parent / "cutaway" / "SmolLM2-135M-Instruct"
    fetched.mkdir(parents=True)
    llama_file(fetched / "model.gguf")
    made = fetched.with_name("SmolLM2-135M-Instruct-int8")
    made.mkdir()
    (made / "cutaway.safetensors").write_bytes(bytes(2000))
    monkeypatch.setattr("cutaway.weights.default_model.fetch", lambda offline: fetched / "model.gguf")
    data = json.loads(cutaway("models", "--json").out)["default"]
    assert data["folders"] == {str(fetched): (fetched / "model.gguf").stat().st_size, str(made): 2000}
    assert data["bytes"] == sum(data["folders"].values())


def test_an_adapter_is_listed_with_its_base(cutaway: Run, hub: Path):
    folder = snapshot(hub, "some/lora")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "some/base"}')
    save_file({}, folder / "adapter_model.safetensors")
    done = cutaway("models")
    assert done.code == 0 and "some/lora  LoRA of some/base" in done.out


def test_an_adapters_tokens_are_its_bases_where_it_brings_none(cutaway: Run, hub: Path, tmp_path: Path):
    base, lora = snapshot(hub, "some/base"), snapshot(hub, "some/lora")
    build(llama(vocab_size=300)).save_pretrained(base)
    save_tokenizer(base)
    (lora / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "some/base"}')
    save_file({}, lora / "adapter_model.safetensors")
    done = cutaway("tokens", "the cat", "--model", "some/lora", "--offline")
    assert done.code == 0 and "2 tokens" in done.out, done.err
    assert cutaway("tokens", "the cat", "--model", "some/base", "--offline").out == done.out
