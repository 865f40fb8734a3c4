"""Each verb is a method and each method a verb: the same arguments, the same numbers, the same printed table."""

import copy
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch

import cutaway as package
from cutaway.ground.errors import BadArgument, NotFinite
from cutaway.lm import LM
from cutaway.show.finding import Finding
from cutaway.show.pictures import Bars, Heatmap, Lines
from tests.tiny import build, llama

from .conftest import Run

ONE, TWO = "the cat sat", ["the cat sat on", "the dog ran to"]
LONG = "the cat sat on the mat, the dog ran to the cat; " * 8
Ask = Callable[[LM], Finding]
# the words of the command line, and the method with the same arguments
QUESTIONS: dict[str, tuple[list[str], Ask]] = {
    "lens": (["lens", ONE, "--top", "2", "--answer", "a"], lambda lm: lm.lens(ONE, top=2, answer="a")),
    "lens of texts": (
        ["lens", *TWO, "--position", "-2", "--answer", "a", "--answer", "o", "--against", "e"],
        lambda lm: lm.lens(TWO, position=-2, answer=["a", "o"], against="e"),
    ),
    "attribute": (["attribute", ONE, "--by", "head"], lambda lm: lm.attribute(ONE, by="head")),
    "attribute texts": (
        ["attribute", *TWO, "--answer", "a", "--against", "o", "--top", "3"],
        lambda lm: lm.attribute(TWO, "a", "o", top=3),
    ),
    "heads": (["heads", "--length", "6", "--seed", "3"], lambda lm: lm.heads(length=6, seed=3)),
    "heads of texts": (["heads", *TWO, "--top", "2"], lambda lm: lm.heads(TWO, top=2)),
    "gradients": (["gradients", ONE], lambda lm: lm.gradients(ONE)),
    "patch": (
        ["patch", ONE, "the dog sat", "--answer", "a", "--against", "o", "--by", "block,position"],
        lambda lm: lm.patch(ONE, "the dog sat", "a", "o", by=("block", "position")),
    ),
    "patch pairs": (
        ["patch", ONE, "the dog sat", "the cat ran", "the mat ran", "--answer", "a", "--direction", "noise"],
        lambda lm: lm.patch([ONE, "the cat ran"], ["the dog sat", "the mat ran"], "a", direction="noise"),
    ),
    "ablate": (["ablate", *TWO, "--answer", "a", "--top", "3"], lambda lm: lm.ablate(TWO, "a", top=3)),
    "ablate to a mean": (
        ["ablate", ONE, "--reference", "a dog", "--reference", "the mat"],
        lambda lm: lm.ablate(ONE, reference=["a dog", "the mat"]),
    ),
    "steer": (
        ["steer", *TWO, "--toward", "a cat", "--away", "the dog", "--max-new-tokens", "4", "--strength", "3"],
        lambda lm: lm.steer(TWO, toward="a cat", away="the dog", max_new_tokens=4, strength=3),
    ),
    "compare": (["compare", *TWO, "--block", "1"], lambda lm: lm.compare(TWO, block=1)),
    "check": (["check"], lambda lm: lm.check()),
}


@pytest.fixture(scope="module")
def lm(tiny_folder: Path) -> LM:
    return package.load(tiny_folder, device="cpu")


def in_json(data: Any) -> Any:
    """Through JSON, where NaN is null, a tuple a list, and a number has five digits."""
    if isinstance(data, float):
        return float(f"{data:.5g}") if math.isfinite(data) else None
    if isinstance(data, dict):
        return {str(name): in_json(value) for name, value in data.items()}
    return [in_json(value) for value in data] if isinstance(data, list | tuple) else data


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_verb_is_a_method(cutaway: Run, lm: LM, tiny_folder: Path, name: str):
    words, ask = QUESTIONS[name]
    found = ask(lm)
    told = cutaway(*words, "--json", "--model", tiny_folder)
    assert told.code == 0, told.err
    assert in_json(json.loads(told.out)) == in_json(found.to_dict())
    shown = cutaway(*words, "--model", tiny_folder)
    path = str(tiny_folder)  # the name as it was given may be wider than a line
    assert shown.out.replace(path, "tiny").split() == str(found).replace(path, "tiny").split()
    assert max(map(len, str(found).replace(path, "tiny").splitlines())) <= 80
    assert all(note in shown.err for note in found.notes)


@pytest.mark.parametrize("mode", ["int8", "none"])
def test_the_verbs_that_read_a_file(cutaway: Run, tiny_folder: Path, tmp_path: Path, mode: str):
    lm = package.load(tiny_folder, quantize=None if mode == "none" else mode, device="cpu")
    (tmp_path / "long.txt").write_text(LONG)
    common = ["--model", tiny_folder, "--quantize", mode]
    words = ["perplexity", tmp_path / "long.txt", "--window", 32, "--limit", 70]
    found = lm.perplexity(LONG, window=32, limit=70)
    assert in_json(json.loads(cutaway(*words, *common, "--json").out)) == in_json(found.to_dict())
    assert cutaway(*words, *common).out == f"{found}\n"
    edit = package.Edit.scale("blocks.0.mlp_out", 3.0)
    lm.save_edits(edit, tmp_path / "edit.json")
    words, effect = ["effect", *TWO, "--edits", tmp_path / "edit.json"], lm.effect(TWO, edit)
    assert in_json(json.loads(cutaway(*words, *common, "--json").out)) == in_json(effect.to_dict())
    assert cutaway(*words, *common).out == f"{effect}\n"
    if mode == "none":
        damage = lm.damage(ONE, limit=8)
        words = ["compare", ONE, "--layers", "--limit", 8, "--model", tiny_folder]
        assert in_json(json.loads(cutaway(*words, "--json").out)) == in_json(damage.to_dict())
        assert cutaway(*words).out.split() == str(damage).split()
        why = lm.why(lm.trace(ONE), "blocks.1.attn.z", 0, 2, 1, 3)
        words = ["trace", ONE, "--why", "blocks.1.attn.z[0,2,1,3]", *common]
        assert str(why) in cutaway(*words).out
        told = in_json(json.loads(cutaway(*words, "--json").out))["why"][0]
        alike = {name: value for name, value in in_json(why.to_dict()).items() if name != "difference"}
        assert told | alike == told  # the difference is rounding itself


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_finding_stands_alone(lm: LM, name: str):
    found = QUESTIONS[name][1](lm)
    assert len(repr(found)) <= 600
    kept = pickle.dumps(found)
    arrays = json.dumps(in_json(found.to_dict()))
    assert b"Decoder" not in kept and len(kept) <= 2 * len(arrays) + 4096
    for again in (pickle.loads(kept), copy.deepcopy(found)):
        assert str(again) == str(found) and in_json(again.to_dict()) == in_json(found.to_dict())
    table = found.to_pandas()
    assert isinstance(table, pandas.DataFrame) and len(table) == len(found.records()) > 0
    for picture in found.pictures():
        if isinstance(picture, Heatmap):
            assert list(picture.values.shape) == [len(picture.rows), len(picture.columns)]
        elif isinstance(picture, Bars):
            assert len(picture.labels) == len(picture.values) == len(picture.spread or picture.values)
        else:
            assert isinstance(picture, Lines) and all(len(y) == len(picture.x) for y in picture.series.values())


def test_without_pandas_the_sentence_says_what_to_do(lm: LM, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(BadArgument, match=r"pip install pandas.*records"):
        lm.heads(ONE).to_pandas()


def test_several_texts_are_the_mean_of_the_single_ones(lm: LM):
    texts = [*TWO, "a dog sat by"]
    ids = [int(lm.logits(text)[0, -1].argmax()) for text in texts]

    def same(many: torch.Tensor, spread: torch.Tensor | None, singles: list[torch.Tensor]) -> None:
        stacked = torch.stack([one.double() for one in singles])
        torch.testing.assert_close(many.double(), stacked.mean(0), rtol=1e-4, atol=1e-4)
        assert spread is not None
        torch.testing.assert_close(spread.double(), stacked.std(0), rtol=1e-3, atol=1e-3)

    by_head = [lm.attribute(t, by="head").parts for t in texts]
    parts = lm.attribute(texts, by="head").parts
    width = min(len(each.what) for each in [*by_head, parts])  # without the row of the head's rounding
    assert parts.values.spread is not None and list(parts.answers) == ids
    same(parts.values.mean[:width], parts.values.spread[:width], [each.values.mean[:width] for each in by_head])
    same(parts.logit.mean, parts.logit.spread, [each.logit.mean for each in by_head])
    lens = lm.lens(texts, answer=ids).lens.difference
    singles = [lm.lens(text, answer=id).lens.difference for text, id in zip(texts, ids, strict=True)]
    assert lens is not None
    same(lens.mean, lens.spread, [one.mean for one in singles if one])
    heads, alone = lm.heads(texts).scores, [lm.heads(text).scores for text in texts]
    assert heads.spread is not None
    for name, scores in heads.by_name.items():
        same(scores, heads.spread[name], [one.by_name[name] for one in alone])
    lost, single = lm.ablate(texts).ablation, [lm.ablate(text).ablation for text in texts]
    same(lost.change.mean, lost.change.spread, [one.change.mean for one in single])
    pairs = [text.replace("cat", "mat").replace("dog", "cat") for text in texts]
    swept, each = lm.patch(texts, pairs, ids), [lm.patch(*pair) for pair in zip(texts, pairs, ids, strict=True)]
    same(swept.sweep.values.mean, swept.sweep.values.spread, [one.sweep.values.mean for one in each])
    grown, one = lm.gradients(TWO).values, [lm.gradients(text).values for text in TWO]
    same(grown.mean, grown.spread, [each.mean for each in one])


def test_texts_in_every_form_give_the_same(lm: LM):
    tokens = lm.tokenize(TWO)
    forms: list[Any] = [TWO, tuple(TWO), tokens, lm.tokenize(TWO, padding_side="left")]
    forms += [] if tokens.padded else [tokens.ids]
    expected = lm.attribute(TWO, "a").to_dict()["logit"]
    for texts in forms:
        assert lm.attribute(texts, "a").to_dict()["logit"] == pytest.approx(expected, abs=1e-4)
        assert lm.ablate(texts, "a").ablation.unablated.mean == pytest.approx(expected, abs=1e-4)


def test_a_word_is_one_token_or_refused_with_its_pieces(lm: LM):
    (spaced,) = lm.tokenizer.tokenize(" cat", add_special_tokens=False).ids[0].tolist()
    found = lm.attribute(ONE, "cat")  # two tokens without its space
    assert found.parts.answers == (spaced,) and "one token only with its space" in found.notes[0]
    assert "another token" in lm.attribute(ONE, "the").notes[0] and not lm.attribute(ONE, " the").notes
    with pytest.raises(BadArgument, match=r"answer='zebra', \d tokens: 'z'"):
        lm.attribute(ONE, "zebra")
    with pytest.raises(BadArgument, match="one for each text"):
        lm.attribute(TWO, ["a", "o", "e"])
    with pytest.raises(BadArgument, match="an id from 0 to 299"):
        lm.attribute(ONE, 300)


def test_nan_in_an_edit_is_one_sentence(lm: LM):
    with pytest.raises(NotFinite, match="NaN or infinite with the edits"):
        lm.effect(ONE, package.Edit.scale("blocks.0.mlp_out", float("nan")))


def test_a_model_without_tokenizer_is_asked_in_ids(tmp_path: Path):
    build(llama()).save_pretrained(tmp_path)
    lm, ids = package.load(tmp_path, device="cpu"), torch.tensor([[3, 5, 7, 4], [3, 6, 7, 4]])
    assert "⟨id·" in str(lm.lens(ids, answer=4)) and "token 4" in lm.lens(ids, answer=4).measure
    assert "⟨id·" in str(lm.effect(ids, package.Edit.zero("blocks.0.mlp_out")))
    for found in (lm.attribute(ids), lm.gradients(ids, [4, 5]), lm.patch(ids[:1], ids[1:], 4, 5), lm.ablate(ids, 4),
                  lm.compare(ids), lm.perplexity(ids[0]), lm.steer(ids, toward=ids[:1], away=ids[1:])):  # fmt: skip
        assert str(found) and found.to_dict() and len(found.to_pandas())
