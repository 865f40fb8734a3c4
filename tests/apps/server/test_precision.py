"""The page's asks about 8 bits: equal to the two models' own traces, lm.compare, lm.damage and explain's parts."""

from typing import Any

import pytest
import torch

from cutaway.analysis.compare import compare_sites
from cutaway.apps.server.asks import precision  # noqa: F401  it fills the table
from cutaway.ground.errors import BadArgument
from cutaway.lm import LM, load
from cutaway.model.architecture import nbytes
from cutaway.quant.explain import explain, int8_layers, layer_input, layer_input_sites
from tests.apps.server.test_reading import TEXT, Page

EDITS = [{"site": "blocks.1.mlp_out", "op": "scale", "value": 2, "position": 3}]


@pytest.fixture(params=[True, False], ids=["served in 8 bits", "served in full precision"])
def page(request: pytest.FixtureRequest, int8: LM) -> Page:
    made = Page(int8 if request.param else load(int8.checkpoint.path, quantize=None, dtype="float32", device="cpu"))
    if not request.param:
        made.served.loaded = made.served.loaded.replace("'int8'", "None")
    made("run", text=TEXT)
    return made


@pytest.fixture
def full(int8: LM) -> LM:
    return load(int8.checkpoint.path, quantize=None, dtype="float32", device="cpu")


def test_the_two_precisions_side_by_side(page: Page, int8: LM, full: LM):
    told = page("full", run="r1").data
    assert not told["loaded"]
    whole, eight = full.trace(TEXT), int8.trace(TEXT)
    found = page("compare", run="r1").data
    apart = compare_sites(whole, eight)
    assert [row["site"] for row in found["sites"]] == list(apart)
    for row in found["sites"]:
        assert row["relative"] == apart[row["site"]].relative_error and row["max"] == apart[row["site"]].largest
    kl = int8.compare(TEXT).to_dict()["next"]["kl"][0]
    assert found["kl"] == pytest.approx(kl, rel=1e-6) and len(found["kl"]) == len(whole.tokens.ids[0])
    differ = (whole["logits"][0].argmax(-1) != eight["logits"][0].argmax(-1)).nonzero()[:, 0].tolist()
    assert [flip["position"] for flip in found["flips"]] == differ
    for flip in found["flips"]:
        assert flip["full"]["id"] == int(whole["logits"][0, flip["position"]].argmax())
    for site, more in (("blocks.1.mlp.post", {}), ("blocks.1.attn.pattern", {"head": 2})):
        pair = page("compare_values", run="r1", site=site, **more).arrays
        of = (slice(None), 2) if more else (slice(None),)
        assert torch.equal(pair["full"], whole[site][of][0]) and torch.equal(pair["eight"], eight[site][of][0])
    now = page("full").data
    assert now["loaded"] and now["seconds"]["load"] > 0 and now["seconds"]["compare"] > 0
    assert now["layers"] == list(int8_layers(int8.decoder))
    other = page.served.shared["other"].decoder
    assert now["bytes"] == pytest.approx(nbytes(other), rel=1e-3)


def test_edits_are_done_in_both(int8: LM, full: LM):
    page = Page(int8)
    page("run", text=TEXT, edits=EDITS)
    from cutaway import Edit

    edits = [Edit.from_data(each) for each in EDITS]
    pair = page("compare_values", run="r1", site="logits").arrays
    assert torch.equal(pair["full"], full.trace(TEXT, edits=edits)["logits"][0])
    assert page.served.kept_bytes == page.call.runs["r1"].kept_bytes + page.call.runs["r1"].nbytes


def test_a_layer_is_opened_to_its_codes(int8: LM, full: LM):
    page = Page(int8)
    page("run", text=TEXT)
    for name, layer in int8_layers(int8.decoder).items():
        found: Any = page("layer", run="r1", layer=name, position=3, row=1, error=True)
        site = layer_input_sites(int8.config)[name]
        x = layer_input(int8.decoder, name, int8.trace(TEXT, site)[site])
        inside = explain(layer, x, full.decoder.get_submodule(name).weight.detach())
        assert torch.equal(found.arrays["codes"], inside.weight_codes[1:65, :128])
        assert torch.equal(found.arrays["input"], x[0, 3])
        assert found.data["value"] == pytest.approx(float(layer(x)[0, 3, 1]), rel=1e-5, abs=1e-5)
        largest = found.data["input"]["largest"][0]
        assert abs(largest["value"]) == float(x[0, 3].abs().max())
        assert largest["code"] == int(inside.activation_codes[0, 3, largest["index"]])
        assert found.data["error"]["relative"] == pytest.approx(float(inside.error[0, 3]), rel=1e-6)
        shares = inside.error_shares((0, 3))
        for each in found.data["error"]["shares"]:
            assert each["share"] == pytest.approx(float(shares[each["index"]]), abs=1e-6)
    names: dict[str, Any] = {}
    exec(found.python, names)
    assert torch.equal(names["inside"].error_shares((0, 3)), shares)
    with pytest.raises(BadArgument, match="such as blocks"):
        page("layer", run="r1", layer="blocks.0.nothing", position=3)
    assert page("layer", run="r1", layer="blocks.0.mlp.up", position=3).data["error"] is None


def test_damage_is_lm_damage(page: Page, full: LM):
    found, told = page("damage", run="r1").data, full.damage(TEXT, "int8").to_dict()
    assert found["total"] == told["total"]
    assert [row["name"] for row in found["layers"]] == [row["name"] for row in told["layers"]]
    assert page.told, "progress was told"
    with pytest.raises(BadArgument, match="one of the two"):
        page("damage")


def test_the_python_of_a_comparison_gives_it(page: Page, capsys: pytest.CaptureFixture[str]):
    """Of an edited run too, whose patch takes its value from another run of the served model."""
    patch = {"site": "blocks.1.attn.z", "op": "patch", "from": "r1", "position": 2, "from_position": 1, "head": 1}
    name = page("run", text=TEXT, edits=[*EDITS, patch]).data["run"]
    pair = page("compare_values", run=name, site="blocks.2.attn.pattern", head=1)
    *before, last = pair.python.splitlines()
    names: dict[str, Any] = {}
    exec("\n".join(before), names)
    assert torch.equal(eval(last, names), pair.arrays["eight"] - pair.arrays["full"])
    found = page("compare", run=name)
    exec(found.python, {})
    kl, *lines = capsys.readouterr().out.splitlines()
    assert kl == str(tuple(found.data["kl"]))
    assert [line.split() for line in lines] == [[row["site"], f"{row['relative']:.3g}"] for row in found.data["sites"]]


def test_the_python_of_damage_loads_full_precision(int8: LM, full: LM, capsys: pytest.CaptureFixture[str]):
    found = Page(int8)("damage", text=TEXT)
    exec(found.python)
    assert "quantize=None" in found.python and capsys.readouterr().out == f"{full.damage(TEXT)}\n"


def test_a_model_too_large_to_stand_beside_the_served_one_is_refused(int8: LM):
    page = Page(int8, model_bytes=10_000)
    page("run", text=TEXT)
    for name, about in (("compare", {}), ("damage", {}), ("compare_values", {"site": "logits"})):
        with pytest.raises(BadArgument, match=r"MB for this model in the other precision; expected at most 0 MB"):
            page(name, run="r1", **about)
    assert "other" not in page.served.shared and page("full").data["bytes"] > 10_000
