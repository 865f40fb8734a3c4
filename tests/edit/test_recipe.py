"""Recipes: written and read back bit for bit, refused for another architecture, and without functions."""

import json
import math
from pathlib import Path

import pytest
import torch

from cutaway import Edit
from cutaway.ground.errors import BadArgument
from cutaway.lm import LM
from tests.tiny import WITH_TOKENIZER, tiny_lm

TEXT = "the cat sat on"


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LM:
    return tiny_lm("llama", tmp_path_factory.mktemp("model"))


def recipe(lm: LM) -> list[Edit]:
    random = torch.Generator().manual_seed(0)
    other = lm.trace("the dog ran to")
    return [
        Edit.add("blocks.0.resid_mid", torch.randn(lm.config.d_model, generator=random) / 3),
        Edit.patch("blocks.1.attn.z", other, head=2, position=(0, 1)),
        Edit.patch("blocks.1.attn.scores", other, head=1, position=2),
        Edit.mean("blocks.1.mlp_out", other, position=-1),
        Edit.scale("blocks.*.attn.pattern", 1 / 3, block=(0, 2), source=0),
        Edit.zero("blocks.2.mlp.post", neuron=range(3, 6), text=0, step=0),
        Edit.project_out("blocks.2.resid_post", torch.randn(lm.config.d_model, generator=random).double()),
        Edit.set("blocks.2.attn.scores", -math.inf, source=0, position=2, head=0),
    ]


def test_a_saved_recipe_gives_the_same_logits_bit_for_bit(lm: LM, tmp_path: Path):
    edits = recipe(lm)
    lm.save_edits(edits, tmp_path / "recipe.json")
    json.loads((tmp_path / "recipe.json").read_text(), parse_constant=pytest.fail)  # strict JSON
    one = lm.trace(TEXT, "logits", edits=edits)["logits"]
    other = lm.trace(TEXT, "logits", edits=tmp_path / "recipe.json")["logits"]
    assert torch.equal(one, other) and not torch.equal(one, lm.trace(TEXT, "logits")["logits"])
    assert [edit.as_data() for edit in edits] == [Edit.from_data(edit.as_data()).as_data() for edit in edits]


def test_a_list_written_by_hand_will_do(lm: LM, tmp_path: Path):
    (tmp_path / "hand.json").write_text('[{"site": "blocks.0.hook_attn_out", "op": "zero", "position": [0, -1]}]')
    trace = lm.trace(TEXT, edits=str(tmp_path / "hand.json"))["blocks.0.attn_out"]
    assert not trace[0, 0].any() and not trace[0, -1].any() and trace[0, 1].any()


def test_a_recipe_of_another_architecture_is_refused_by_the_fact(lm: LM, tmp_path: Path):
    lm.save_edits(Edit.zero("blocks.0.attn_out"), tmp_path / "recipe.json")
    other = tiny_lm("gpt2", tmp_path / "model")
    with pytest.raises(BadArgument, match=r"a recipe for a model of .* as this model has"):
        other.trace(TEXT, edits=tmp_path / "recipe.json")


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "cannot be read"),
        ('{"format": "cake"}', "the format 'cake'"),
        ("3", "the format 3"),
        ('[{"op": "zero"}]', "an edit with site"),
        ('[{"site": "logits", "op": "zero", "where": 3}]', "an edit with site"),
        ('[{"site": 7, "op": "zero"}]', "the site 7"),
        ('[{"site": "logits", "op": "set", "value": "loud"}]', "the value 'loud'"),
        ('[{"site": "logits", "op": "set", "value": [[1], [1, 2]]}]', "no tensor"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(lm: LM, tmp_path: Path, text: str, words: str):
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(BadArgument, match=words):
        lm.trace(TEXT, edits=tmp_path / "recipe.json")


def test_what_cannot_be_written_is_told_and_leaves_nothing(lm: LM, tmp_path: Path):
    with pytest.raises(BadArgument, match="edits that are data"):
        lm.save_edits(Edit.function("logits", torch.tanh), tmp_path / "recipe.json")
    with pytest.raises(BadArgument, match="cannot be written"):
        lm.save_edits(Edit.zero("logits"), tmp_path / "no" / "recipe.json")
    with pytest.raises(BadArgument, match="the edit 3"):
        lm.trace(TEXT, edits=[3])  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []


def test_an_edit_says_what_it_is(lm: LM):
    words = [str(edit) for edit in recipe(lm)]
    assert words[5] == "zero on blocks.2.mlp.post at neuron 3 to 5, step 0, text 0"
    assert words[4] == "scale 0.333333 on blocks.*.attn.pattern at block 0, 2, source 0"
    assert words[0] == "add [32] on blocks.0.resid_mid"


def test_every_family_has_tiny_models():
    assert {"opt", "gpt2", "llama"} <= set(WITH_TOKENIZER)
