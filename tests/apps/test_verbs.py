"""`cutaway model`, `trace` and `models`, --help and --version: what they print, and that it fits a terminal."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cutaway as package
from cutaway.apps.cli.main import VERBS
from cutaway.weights.families import supported

from .conftest import CONFIG, Run


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


def test_help_lists_the_verbs_in_the_order_of_the_data_flow(cutaway: Run):
    done = cutaway("--help")
    commands = done.out[done.out.index("Commands:") :].splitlines()[1:]
    assert done.code == 0 and [line.split()[0] for line in commands] == list(VERBS)
    assert done == cutaway() and widest(done.out) <= 80
    assert "..." not in done.out.partition("Commands:")[2]  # every summary is whole in 80 columns


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "tour"])
def test_every_verb_takes_the_shared_options(cutaway: Run, verb: str):
    done = cutaway(verb, "--help")
    assert done.code == 0 and widest(done.out) <= 80
    for option in ("--model", "--quantize", "--dtype", "--device", "--offline", "--json", "--debug"):
        assert option in done.out


def test_version(cutaway: Run):
    assert cutaway("--version") == (0, f"cutaway {package.__version__}\n", "")


def test_help_imports_nothing_heavy():
    code = "import sys; from cutaway.apps.cli.main import main; main(['--help']); main(['generate', '--help'])"
    heavy = (
        "sys.exit(str([m for m in ('torch', 'transformers', 'numpy', 'rich', 'huggingface_hub') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", f"{code}; {heavy}"], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"


def test_model_prints_the_architecture(cutaway: Run, tiny_folder: Path):
    done = cutaway("model", "--model", tiny_folder)
    assert done.code == 0 and done.err == "" and done.out.startswith(f"{package.load(tiny_folder)}\n")
    assert "blocks.*  ×2" in done.out and "rows: q 32, k 16, v 16" in done.out
    assert widest(done.out.split("\n", 1)[1]) <= 80  # the first line is the name as it was given


def test_model_as_json(cutaway: Run, tiny_folder: Path):
    data = json.loads(cutaway("model", "--model", tiny_folder, "--quantize", "none", "--json").out)
    rows = {row["name"]: row for row in data["modules"]}
    assert rows["embed.token"]["parameters"] == 300 * 32 and rows["blocks.*.attn.qkv"]["count"] == 2
    assert data["parameters"] == sum(row["parameters"] * row["count"] for row in data["modules"])
    assert data["opened"] == data["bytes"]["float32"] == 4 * data["parameters"]
    asked = ["--model", tiny_folder, "--quantize", "none", "--dtype", "bfloat16", "--json"]
    half = json.loads(cutaway("model", *asked).out)
    assert half["opened"] == half["bytes"]["bfloat16"] == half["bytes"]["float16"] == 2 * half["parameters"]


def test_model_in_8_bits_is_the_default(cutaway: Run, tiny_folder: Path):
    data = json.loads(cutaway("model", "--model", tiny_folder, "--json").out)
    rows = {row["name"]: row for row in data["modules"]}
    qkv, head = rows["blocks.*.attn.qkv"], rows["unembed.head"]
    assert (qkv["dtype"], qkv["bytes"]) == ("int8", 64 * 32 + 2 * 64)
    assert (head["dtype"], head["bytes"], head["parameters"]) == ("int8", 304 * (32 + 2), 0)  # in panels of 16 rows
    assert data == json.loads(cutaway("model", "--model", tiny_folder, "--quantize", "int8", "--json").out)
    assert data["opened"] == data["bytes"]["int8"]


def test_trace_prints_a_table_of_all_sites(cutaway: Run, tiny_folder: Path):
    done = cutaway("trace", "the cat " * 60, "--model", tiny_folder)
    lines = done.out.splitlines()
    sites = package.load(tiny_folder).sites
    assert done.code == 0 and widest(done.out) <= 80
    assert [line.split()[0] for line in lines[1:-1]] == sites
    assert lines[-1].startswith(f"{len(sites)} sites, ") and lines[-1].endswith("attention: explicit")


def test_trace_shows_a_site(cutaway: Run, tiny_folder: Path):
    done = cutaway("trace", "the cat", "--show", "blocks.1.attn.pattern", "--model", tiny_folder)
    assert done.out.startswith(
        "blocks.1.attn.pattern  B H T S = [1, 4, 2, 2]  float32\n  = softmax(attn.scores)\n[[[[1."
    )
    long = cutaway("trace", "the cat " * 60, "--show", "logits", "--sites", "ln_final.*", "--model", tiny_folder)
    assert "..." in long.out and widest(long.out) <= 80 and "ln_final.scale" in long.out


def test_trace_as_json_holds_the_values_of_the_pass(cutaway: Run, tiny_folder: Path):
    asked = ["--sites", "blocks.*.resid_post", "--show", "blocks.0.attn.scores"]
    data = json.loads(cutaway("trace", "the cat", *asked, "--json", "--model", tiny_folder).out)
    expected = package.load(tiny_folder).trace("the cat")
    assert list(data["sites"]) == ["blocks.0.attn.scores", "blocks.0.resid_post", "blocks.1.resid_post"]
    for name, said in data["sites"].items():
        value = expected[name][expected[name].isfinite()]
        assert said["shape"] == list(expected[name].shape) and said["bytes"] == expected[name].nbytes
        assert said["mean"] == pytest.approx(float(value.mean()), abs=1e-6)
        assert said["largest"] == pytest.approx(float(value.abs().max()), rel=1e-6)
    values = data["sites"]["blocks.0.attn.scores"]["values"]
    assert values[0][0][0][1] is None  # masked: JSON has no infinity
    assert values[0][3][1][0] == pytest.approx(float(expected["blocks.0.attn.scores"][0, 3, 1, 0]))


def test_sites_list_names_every_site_and_needs_no_weights(cutaway: Run, broken: Path):
    sites = package.load(broken).sites
    (broken / "model.safetensors").unlink()
    for verb, option in (("trace", "--sites-list"), ("model", "--sites")):
        done = cutaway(verb, option, "--model", broken)
        assert done.code == 0 and widest(done.out) <= 80
        named = {line.split()[0] for line in done.out.splitlines() if not line.startswith(" ")}
        later = {name for name in sites if not name.startswith("blocks.")} | {"blocks.0.resid_pre"}
        assert later | {"blocks.*.mlp.post"} <= named
        data = json.loads(cutaway(verb, option, "--model", broken, "--json").out)
        assert [site["name"] for site in data] == sites


def test_models_without_anything_here(cutaway: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    _point_caches_at(tmp_path, monkeypatch)
    done = cutaway("models")
    assert done.code == 0 and widest(done.out) <= 80
    assert ", ".join(supported()) in " ".join(done.out.split())
    assert "not here yet" in done.out and "no model that cutaway runs" in done.out
    data = json.loads(cutaway("models", "--json").out)
    assert data["default"] == {"name": "SmolLM2-135M-Instruct", "family": None, "folder": None, "bytes": None,
                               "folders": {}}  # fmt: skip


def test_models_of_the_hubs_cache(cutaway: Run, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    hub = _point_caches_at(tmp_path, monkeypatch)
    for name, config in (("tiny", CONFIG.to_dict()), ("other", {"model_type": "t5"})):
        snapshot = hub / f"models--somebody--{name}" / "snapshots" / "0123abc"
        shutil.copytree(tiny_folder, snapshot)
        (snapshot / "config.json").write_text(json.dumps(config))
        (snapshot.parent.parent / "refs").mkdir()
        (snapshot.parent.parent / "refs" / "main").write_text("0123abc")
    done = cutaway("models")
    assert "somebody/tiny  llama" in done.out and "and 1 that it does not run" in done.out
    (row,) = json.loads(cutaway("models", "--json").out)["hub_cache"]
    assert row["name"] == "somebody/tiny" and row["folder"].endswith("0123abc")


def test_models_with_one_name(cutaway: Run, tiny_folder: Path):
    data = json.loads(cutaway("models", "--model", tiny_folder, "--json").out)
    assert data["models"][0]["family"] == "llama" and data["models"][0]["folder"] == str(tiny_folder)
    assert cutaway("models", "--model", "nobody/nothing").code == 2  # without the network


def _point_caches_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUTAWAY_CACHE", str(folder / "cutaway"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    (folder / "hub").mkdir()
    return folder / "hub"
