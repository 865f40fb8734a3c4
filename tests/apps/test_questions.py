"""The verbs lens, attribute, heads, patch and steer: real numbers, 80 columns, JSON, and one sentence on bad input."""

import json
from pathlib import Path

import pytest
import torch

import cutaway as package
from cutaway.analysis.attribution import attribute, needed_sites
from cutaway.analysis.metric import logit_difference
from cutaway.analysis.patching import Sweep, averaged, sweep
from cutaway.show.patching import PatchFinding
from tests.apps.conftest import Run

TEXT = "the cat sat"


def numbers(cutaway: Run, *words: object) -> dict:
    done = cutaway(*words, "--json")
    assert done.code == 0, done.err
    shown = cutaway(*words)
    assert shown.code == 0 and max(map(len, shown.out.splitlines())) <= 80, shown.out
    return json.loads(done.out)


def test_lens_ends_with_the_models_own_answer(cutaway: Run, tiny_folder: Path):
    data = numbers(cutaway, "lens", TEXT, "--model", tiny_folder)
    lm = package.load(tiny_folder, device="cpu")
    best = lm.logits(TEXT)[0, -1].softmax(-1).topk(3)
    assert [each["id"] for each in data["rows"][-1]["tokens"]] == best.indices.tolist()
    assert data["rows"][-1]["tokens"][0]["probability"] == pytest.approx(float(best.values[0]), abs=1e-5)
    assert len(data["rows"]) == lm.config.n_layers + 1
    many = cutaway("lens", TEXT, "--model", tiny_folder, "--top", 9)
    assert "of 9 tokens fit" in many.err and max(map(len, many.out.splitlines())) <= 80
    assert all(line.endswith("%") for line in many.out.splitlines()[1:])


@pytest.mark.parametrize("by", ["block", "head", "neuron", "token"])
def test_attribute_sums_to_the_logit(cutaway: Run, tiny_folder: Path, by: str):
    data = numbers(cutaway, "attribute", TEXT, "--model", tiny_folder, "--by", by, "--token", "a", "--versus", "o")
    lm = package.load(tiny_folder, device="cpu")
    found = attribute(lm.trace(TEXT, needed_sites(lm.config, by)), lm.decoder, data["token"], data["versus"], by)
    assert data["logit"] == pytest.approx(found.logit)
    assert sum(part["gives"] for part in data["parts"]) == pytest.approx(found.logit, abs=1e-3)


def test_heads_on_random_tokens_and_on_a_text(cutaway: Run, tiny_folder: Path):
    data = numbers(cutaway, "heads", "--model", tiny_folder, "--length", 8)
    assert set(data["scores"]) == {"previous", "self", "first", "duplicate", "entropy", "induction"}
    data = numbers(cutaway, "heads", TEXT, "--model", tiny_folder)
    assert "induction" not in data["scores"] and len(data["scores"]["previous"]) == 2


@pytest.mark.parametrize(
    "by, site", [("block,head", "attn.z"), ("block,position", "resid_pre"), ("block,head", "attn.pattern")]
)
def test_patch_is_the_sweep(cutaway: Run, tiny_folder: Path, by: str, site: str):
    words = ("patch", "the cat sat", "the cat ran", "--answer", "a", "--wrong", "o", "--by", by, "--site", site)
    lm = package.load(tiny_folder, device="cpu")
    pair = [lm.tokens(text) for text in words[1:3]]
    if pair[0].ids.shape != pair[1].ids.shape:
        pytest.skip("the trained tokenizer cuts them unequally")
    data = numbers(cutaway, *words, "--model", tiny_folder)
    a, o = (lm.tokenizer.tokenize(each, add_special_tokens=False).ids[0, 0].item() for each in "ao")
    found = sweep(lm.decoder, *pair, logit_difference(int(a), int(o)), tuple(by.split(",")), site=site)
    torch.testing.assert_close(torch.tensor(data["scores"]), found.scores)


def test_patch_draws_what_helps_and_what_hinders():
    scores = torch.tensor([[0.1, 0.13, -0.2, 1.4], [0.5, 0.74, 0.88, -9.0]])
    found = Sweep(1.0 + scores, ("block", "head"), 2.0, 1.0, "denoise")
    lines = str(PatchFinding("heads", averaged([found]), (), "measure")).splitlines()
    assert lines[4:6] == ["     0     ░░░---███", "     1  ▒▒▒▓▓▓███---"]
    long = Sweep(torch.ones(1, 90), ("block", "position"), 2.0, 1.0, "denoise")
    wide = str(PatchFinding("resid", averaged([long]), ("a",) * 90, "measure"))
    assert "20 more on the right are not drawn" in wide
    assert max(map(len, wide.splitlines())) <= 80


def test_steer_writes_a_recipe_that_generate_takes(cutaway: Run, tiny_folder: Path, tmp_path: Path):
    words = ("steer", TEXT, "--toward", "the dog", "--away", "a mat", "--max-new-tokens", 6, "--strength", 5)
    data = numbers(cutaway, *words, "--model", tiny_folder, "--save", tmp_path / "r.json")
    again = cutaway(
        "generate", TEXT, "--model", tiny_folder, "--edits", tmp_path / "r.json", "--max-new-tokens", 6, "--json"
    )
    assert json.loads(again.out)["texts"][0]["text"] == data["with"]
    plain = cutaway("generate", TEXT, "--model", tiny_folder, "--max-new-tokens", 6, "--json")
    assert json.loads(plain.out)["texts"][0]["text"] == data["without"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["lens", TEXT, "--position", "40"], "position 40 of text 0"),
        (["lens", TEXT, "--probes", "none.pt"], "no file none.pt"),
        (["attribute", TEXT, "--token", "two words"], "'two words', "),
        (["attribute", TEXT, "--by", "colour"], "--by colour"),
        (["heads", "--length", "99999"], "--length 99999"),
        (["heads", ""], "an empty text"),
        (["patch", "the cat sat", "the", "--answer", "a"], "tokens; expected two texts of the same length"),
        (["patch", TEXT, TEXT, "--answer", "a"], "the measure is the same"),
        (["patch", TEXT, TEXT, "--answer", "a", "--by", "all"], "--by"),
        (["steer", TEXT, "--toward", "a", "--toward", "b", "--away", "c"], "2 texts toward and 1 away"),
        (["steer", TEXT, "--toward", "a", "--away", "c", "--site", "blocks.0.attn.z"], "the site blocks.0.attn.z"),
        (["check", TEXT], "1 texts"),
    ],
)
def test_bad_input_is_one_sentence(cutaway: Run, tiny_folder: Path, words: list[str], said: str):
    done = cutaway(*words, "--model", tiny_folder)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1, done
