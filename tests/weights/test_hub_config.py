"""config_of_hub: of a hub's model nothing but config.json is fetched, and a failure is one sentence."""

import json
from pathlib import Path

import pytest

from cutaway.ground.errors import DownloadFailed, ModelNotFound
from cutaway.weights.hub import config_of_hub
from cutaway.weights.opening import described
from tests.tiny import CONFIGS, build
from tests.weights.test_hub import FakeHub, cache, hub, point_at, put_in_cache

__all__ = ["cache", "hub"]  # fixtures

LLAMA = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 11, "num_hidden_layers": 2}


def test_only_config_json_is_fetched(hub: type[FakeHub], capfd: pytest.CaptureFixture[str], monkeypatch):
    hub.files = {"config.json": json.dumps(LLAMA).encode(), "model.safetensors": b"x" * 1000, "merges.txt": b"x"}
    folder = config_of_hub("some/model")
    assert [file.name for file in folder.iterdir()] == ["config.json"] and hub.asked == ["config.json"]
    assert capfd.readouterr() == ("", "")
    point_at(monkeypatch, "http://127.0.0.1:9")
    assert config_of_hub("some/model") == folder  # from the cache
    checkpoint, name = described("some/model")
    assert name == "some/model" and checkpoint.facts.n_layers == 2 and not checkpoint.tensors


def test_what_the_hub_refuses(hub: type[FakeHub]):
    with pytest.raises(ModelNotFound, match=r"found the model name 'no/such', neither .*; check its spelling"):
        config_of_hub("no/such")
    with pytest.raises(DownloadFailed, match=r"'gated/model', whose owner asks for consent.*hf auth login"):
        config_of_hub("gated/model")
    hub.files = {"model.Q4_1.gguf": b"x"}
    with pytest.raises(ModelNotFound, match=r"no config.json in the hub's 'some/model'; .*download its .gguf file"):
        config_of_hub("some/model")


def test_a_hub_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    point_at(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(DownloadFailed, match=r"found no way to fetch 'gpt2', .*check the network"):
        config_of_hub("gpt2")


@pytest.mark.usefixtures("no_network")
def test_offline_and_what_is_here(tmp_path: Path, cache: Path):
    with pytest.raises(ModelNotFound, match=r"'gpt2', neither a folder here nor .*; run it once with the network on"):
        config_of_hub("gpt2", offline=True)
    with pytest.raises(ModelNotFound, match=r"which is no file here; .*; check its spelling"):
        config_of_hub("./nope")
    (tmp_path / "here" / "gpt2").mkdir()
    assert config_of_hub("gpt2") == Path("gpt2")
    folder = put_in_cache(cache, "some/model", "config.json")
    assert config_of_hub("some/model", offline=True) == folder


@pytest.mark.usefixtures("no_network")
def test_half_a_download_still_has_its_shape(cache: Path):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    files = ("config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json")
    folder = put_in_cache(cache, "some/model", *files, index=index)
    build(CONFIGS["llama-gqa"]).config.save_pretrained(folder)
    checkpoint, _ = described("some/model")
    assert checkpoint.facts.n_kv_heads == 2
    lacks = "lack model-00002-of-00002.safetensors: shapes are those of config.json"
    assert checkpoint.notes == [f"the weights in {folder} {lacks}"]
