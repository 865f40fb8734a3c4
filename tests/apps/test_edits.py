"""The command line's way to plans, edits, recordings and reasons: the same numbers as from Python."""

import json
from pathlib import Path

import pytest
import torch

import cutaway as package
from cutaway import Edit, Trace
from tests.apps.conftest import Run

TEXT = "the cat sat"


@pytest.fixture
def recipe(tiny_folder: Path, tmp_path: Path) -> Path:
    lm = package.load(tiny_folder, device="cpu")
    value = torch.randn(lm.config.d_model, generator=torch.Generator().manual_seed(1))
    lm.save_edits([Edit.zero("blocks.0.attn.z", head=1), Edit.add("blocks.1.resid_pre", value)], tmp_path / "r.json")
    return tmp_path / "r.json"


def test_a_recipe_run_from_the_command_line_gives_the_same_logits_bit_for_bit(
    cutaway: Run, tiny_folder: Path, recipe: Path, tmp_path: Path
):
    done = cutaway("trace", TEXT, "--model", tiny_folder, "--edits", recipe, "--save", tmp_path / "t.safetensors")
    assert done.code == 0 and "KL(without ‖ with the edits)" in done.out
    lm = package.load(tiny_folder, device="cpu")
    here = lm.trace(TEXT, edits=recipe)
    saved = Trace.load(tmp_path / "t.safetensors")
    assert list(saved) == list(here)
    assert all(torch.equal(saved[site], here[site]) for site in here)
    assert not torch.equal(here["logits"], lm.trace(TEXT)["logits"])


def test_generate_edits_records_and_says_the_effect(cutaway: Run, tiny_folder: Path, recipe: Path, tmp_path: Path):
    words = ("generate", TEXT, "--model", tiny_folder, "--max-new-tokens", 5, "--edits", recipe)
    done = cutaway(*words, "--save", tmp_path / "t.safetensors", "--sites", "blocks.*.resid_post")
    assert done.code == 0 and "next token, KL" in done.out
    lm = package.load(tiny_folder, device="cpu")
    out = lm.generate(TEXT, sites="blocks.*.resid_post", edits=recipe, max_new_tokens=5)
    saved = Trace.load(tmp_path / "t.safetensors")
    assert all(torch.equal(saved[site], out.trace[site]) for site in out.trace)
    data = json.loads(cutaway(*words, "--json").out)
    assert data["effect"]["kl"][0] == pytest.approx(lm.effect(TEXT, recipe).kl[0], abs=1e-6)
    assert "blocks.0.resid_post" in cutaway(*words, "--sites", "blocks.0.resid_post").out


def test_the_plan_is_shown_and_a_budget_held(cutaway: Run, tiny_folder: Path):
    data = json.loads(cutaway("trace", TEXT, "--model", tiny_folder, "--plan", "--json").out)
    lm = package.load(tiny_folder, device="cpu")
    assert data["bytes"] == lm.trace(TEXT).nbytes
    shown = cutaway("trace", TEXT, "--model", tiny_folder, "--plan").out
    assert "blocks.*.attn.pattern" in shown and max(map(len, shown.splitlines())) <= 80
    assert cutaway("trace", TEXT, "--model", tiny_folder, "--budget", data["bytes"]).code == 0
    refused = cutaway("trace", TEXT, "--model", tiny_folder, "--budget", "1 kB")
    assert refused.code == 2 and 'such as sites="' in refused.err and refused.err.count("\n") == 1


def test_why_takes_a_number_apart(cutaway: Run, tiny_folder: Path):
    words = ("trace", TEXT, "--model", tiny_folder, "--why", "blocks.1.attn.z[0,2,1,5]")
    done = cutaway(*words)
    assert done.code == 0 and "= mix(attn.pattern, shared(attn.v))" in done.out
    data = json.loads(cutaway(*words, "--json").out)["why"][0]
    assert abs(data["difference"]) < 1e-5
    assert sum(term["contribution"] for term in data["terms"]) == pytest.approx(data["value"], abs=1e-5)


def test_positions_until_and_disk(cutaway: Run, tiny_folder: Path, tmp_path: Path):
    words = ("trace", TEXT, "--model", tiny_folder, "--json")
    sites = json.loads(cutaway(*words, "--positions", "0,-1", "--until", "blocks.0.attn_out").out)["sites"]
    assert sites["blocks.0.attn_out"]["shape"][:2] == [1, 2] and "blocks.0.resid_mid" not in sites
    assert cutaway(*words, "--to", tmp_path).code == 0 and cutaway(*words, "--to", "disk").code == 0


@pytest.mark.parametrize(
    "words, said",
    [
        (["--sites", "blocks.0.attn.zz"], "no site 'blocks.0.attn.zz'"),
        (["--sites", "blocks.9-7.attn.z"], "the blocks 9 to 7"),
        (["--budget", "lots"], "budget='lots'"),
        (["--why", "logits"], "--why 'logits'"),
        (["--why", "logits[0,99,0]"], "logits[0, 99, 0]"),
        (["--positions", "first"], "'first'"),
        (["--positions", "77"], "position 77 of text 0"),
        (["--until", "nowhere"], "no site 'nowhere'"),
        (["--to", "moon"], "to='moon'"),
        (["--edits", "no-such.json"], "no-such.json, which cannot be read"),
        (["--save", "/no/such/folder/t.safetensors"], "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(cutaway: Run, tiny_folder: Path, words: list[str], said: str):
    done = cutaway("trace", TEXT, "--model", tiny_folder, *words)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1 and "Traceback" not in done.err
    if words[0] == "--edits":
        assert cutaway("generate", TEXT, "--model", tiny_folder, *words).code == 2


def test_a_recipe_of_another_model_is_one_sentence(cutaway: Run, tiny_folder: Path, recipe: Path):
    data = json.loads(recipe.read_text())
    data["model"]["n_layers"] = 12
    recipe.write_text(json.dumps(data))
    done = cutaway("trace", TEXT, "--model", tiny_folder, "--edits", recipe)
    assert done.code == 2 and "a recipe for a model of n_layers 12; expected n_layers 2" in done.err
