"""The page's asks of a run, called as the server calls them: every number is that of lm.trace, lm.lens, lm.why, …"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cutaway import Edit
from cutaway.apps.server.asks import ASKS, Answer, checked, reading, text  # noqa: F401  they fill the table
from cutaway.apps.server.session import Call, Limits, Reader, Served
from cutaway.apps.server.wire import dumps
from cutaway.ground.errors import BadArgument
from cutaway.lm import LM, load
from cutaway.trace.view import Source
from tests.apps.server.conftest import Serving
from tests.model_types import drawn
from tests.tiny import TEXT as SAVED
from tests.tiny import build, save_tokenizer

TEXT, OTHER = "the cat sat on the mat", "the dog sat on the mat"


class Page:
    """A reader who asks."""

    def __init__(self, lm: LM, **limits: int) -> None:
        loaded = f"{str(lm.checkpoint.path)!r}, quantize='int8', dtype='float32', device='cpu'"
        self.lm, self.served = lm, Served(lm, loaded, Limits(**limits))
        self.call, self.told = Call(Reader(self.served), 1, lambda *told: self.told.append(told)), []

    def __call__(self, name: str, **given: Any) -> Answer:
        """The answer, the last one where there are several."""
        made = ASKS[name].function(self.call, **checked(name, given))
        *_, answer = [made] if isinstance(made, Answer) else made
        dumps(answer.data)  # it is JSON
        return answer


@pytest.fixture
def page(int8: LM) -> Page:
    return Page(int8)


def test_a_text_is_bytes_pieces_and_merges(page: Page):
    found = page("tokens", texts=[TEXT, "naïve"], padding_side="left")
    tokens = page.lm.tokenize([TEXT, "naïve"], padding_side="left")
    assert torch.equal(found.arrays["ids"], tokens.ids) and torch.equal(found.arrays["mask"], tokens.mask)
    for row, (one, said) in enumerate(zip([TEXT, "naïve"], found.data["texts"], strict=True)):
        assert bytes(said["bytes"]) == one.encode()
        own = [piece for piece in said["pieces"] if not piece["padding"]]
        assert b"".join(bytes(piece["bytes"]) for piece in own) == one.encode()
        assert [piece["id"] for piece in said["pieces"]] == tokens.ids[row].tolist()
        for merge in said["merges"]:
            assert merge["left"] + merge["right"] == merge["result"] or "⟨" in merge["result"] + merge["left"]
        assert own[0]["start"] == 0 and own[-1]["end"] == len(one)
    with pytest.raises(BadArgument, match="one or two"):
        page("tokens", texts=[])


def test_a_run_is_the_trace(page: Page):
    planned = page("plan", text=TEXT)
    assert planned.data["bytes"] == sum(row["bytes"] for row in planned.data["rows"])
    answer, trace, lm = page("run", text=TEXT), page.lm.trace(TEXT), page.lm
    data, arrays = answer.data, answer.arrays
    assert data["run"] == "r1" and data["bytes"] == planned.data["bytes"]
    assert page.served.kept_bytes == data["bytes"] + len(f"view = lm.view({TEXT!r})")
    assert torch.equal(arrays["embed.token"], trace["embed.token"][0])
    assert ("embed.position" in arrays) is (lm.config.rope is None)
    for layer in range(lm.config.n_layers):
        assert torch.equal(arrays["attn_size"][layer], trace["attn_out", layer][0].norm(dim=-1))
        assert torch.equal(arrays["mlp_size"][layer], trace["mlp_out", layer][0].norm(dim=-1))
        assert torch.equal(arrays["resid_size"][layer], trace["resid_pre", layer][0].norm(dim=-1))
        assert torch.equal(arrays["thumbnails"][layer], (trace["attn.pattern", layer][0] * 255).round().byte())
    for name, role in lm.heads(TEXT).scores.by_name.items():
        torch.testing.assert_close(arrays[f"role.{name}"], role)
    assert sorted(data["roles"]) == sorted(name for name in arrays if name.startswith("role."))
    assert arrays["role.induction"].shape == (lm.config.n_layers, lm.config.n_heads)
    count = len(data["tokens"])
    assert data["window"] == [0, count] and arrays["lens_ids"].shape == (lm.config.n_layers + 1, count)
    for position in (0, count - 1):
        lens = lm.lens(TEXT, position=position, top=1).lens
        assert arrays["lens_ids"][:, position].tolist() == lens.ids[:, 0].tolist()
        assert all(str(id) in data["lens_texts"] for id in lens.ids[:, 0].tolist())
    probs = trace["logits"][0].softmax(-1)
    assert torch.equal(arrays["top_ids"][:, 0], probs.argmax(-1).int())
    window = page("lens_grid", run="r1", start=1, end=3)
    assert torch.equal(window.arrays["lens_ids"], arrays["lens_ids"][:, 1:3])
    with pytest.raises(BadArgument, match="positions 3 to 1"):
        page("lens_grid", run="r1", start=3, end=1)


def test_every_site_is_sent_as_it_was(page: Page, monkeypatch: pytest.MonkeyPatch):
    page("run", text=TEXT)
    trace = page.lm.trace(TEXT)
    for site in page.lm.sites:
        square = site.endswith(("scores", "pattern"))
        found = page("values", run="r1", site=site, **({"head": 2} if square else {}))
        expected = trace[site][0, 2] if square else trace[site][0]
        assert torch.equal(found.arrays["values"], expected), site
        finite = expected[expected.isfinite()]
        assert found.data["min"] == float(finite.min()) and found.data["max"] == float(finite.max())
        assert len(found.data["axes"]) == expected.ndim and found.data["inf"] == int(expected.isinf().sum())
    part = page("values", run="r1", site="blocks.1.attn.v", head=-1, start=1, end=3).arrays["values"]
    assert torch.equal(part, trace["attn.v", 1, -1][0, 1:3])
    with monkeypatch.context() as patched:  # logits of a part are computed without the others
        patched.setattr(Source, "values", None)
        some = page("values", run="r1", site="logits", start=1, end=3).arrays["values"]
    assert torch.equal(some, trace["logits"][0, 1:3])
    for wrong in ({"site": "blocks.1.attn.scores"}, {"site": "blocks.1.attn_out", "head": 1}, {"site": "nothing"},
                  {"site": "logits", "start": 4, "end": 99}):  # fmt: skip
        with pytest.raises(BadArgument):
            page("values", run="r1", **wrong)


def test_heads_rows_neurons_and_the_lens(page: Page):
    page("run", text=TEXT)
    lm, trace = page.lm, page.lm.trace(TEXT)
    head = page("head", run="r1", layer=1, head=3).arrays
    assert torch.equal(head["pattern"], trace["attn.pattern", 1, 3][0])
    assert torch.equal(head["scores"], trace["attn.scores", 1, 3][0])
    row = page("row", run="r1", layer=1, head=3, position=4)
    q = "attn.rot_q" if lm.config.rope else "attn.q"
    assert torch.equal(row.arrays["q"], trace[q, 1, 3][0, 4])
    assert list(row.arrays) == ["q", "k", "dots", "scaled", "scores", "pattern", "v", "z"]
    assert torch.equal(row.arrays["z"], trace["attn.z", 1, 3][0, 4])
    [strongest] = page("neurons", run="r1", layer=1, position=4, top=1).data["neurons"]
    assert strongest["post"] == float(trace["blocks.1.mlp.post"][0, 4, strongest["neuron"]])
    assert strongest["promotes"][0]["text"] == lm.piece(strongest["promotes"][0]["id"])
    for layer in range(lm.config.n_layers + 1):
        found = page("lens", run="r1", layer=layer, position=4, top=3).data["tokens"]
        told = lm.lens(TEXT, position=4, top=3).lens
        assert [each["id"] for each in found] == told.ids[layer].tolist()
        assert [each["prob"] for each in found] == pytest.approx(told.probability[layer].tolist(), rel=1e-4)
    assert page.call.runs["r1"].logits_at(4).argmax() == trace["logits"][0, 4].argmax()
    with pytest.raises(BadArgument, match="position 99"):
        page("row", run="r1", layer=1, head=3, position=99)


def test_attribution_and_why_are_the_findings_of_the_same_name(page: Page):
    page("run", text=TEXT)
    lm, trace = page.lm, page.lm.trace(TEXT)
    if lm.config.post_norm:
        with pytest.raises(BadArgument, match="norms its residual stream"):
            page("attribute", run="r1", position=3)
    else:
        found = page("attribute", run="r1", position=3, answer=5, against=7, by="head").data
        assert found == lm.attribute(TEXT, 5, 7, by="head", position=3).to_dict()
    for site in lm.sites:
        index = [n - 1 for n in trace[site].shape[1:]]
        said, told = page("why", run="r1", site=site, index=index).data, lm.why(trace, site, 0, *index)
        assert said["index"] == index and said["value"] == told.value and said["recomputed"] == told.recomputed
        assert said["formula"] == told.formula and said["count"] == len(told.terms) and len(said["terms"]) <= 50
        assert math.isclose(said["difference"], told.difference)
        for parent in said["parents"]:
            assert len(parent["index"]) == trace[parent["site"]].ndim - 1
    with pytest.raises(BadArgument, match=r"found blocks.1.mlp_out\[3, 999]; expected an index for each of T D = "):
        page("why", run="r1", site="blocks.1.mlp_out", index=[3, 999])


def test_an_edited_run_and_its_cone(page: Page):
    page("run", text=TEXT)
    edits = [{"site": "blocks.1.mlp_out", "op": "zero", "position": 3}]
    answer = page("run", text=TEXT, edits=edits, base="r1")
    trace = page.lm.trace(TEXT, edits=[Edit.from_data(each) for each in edits])
    assert torch.equal(page("values", run="r2", site="logits").arrays["values"], trace["logits"][0])
    reach = answer.arrays["cone"]
    assert (reach[:2] == 0).all() and (reach[:, :3] == 0).all() and (reach[2:, 3] > 0).all()
    if not page.lm.config.post_norm:
        parts = page("attribute", run="r2", position=4, answer=5).data
        assert parts["logit"] == pytest.approx(float(trace["logits"][0, 4, 5]), rel=1e-5)
    late = page("run", text=TEXT, edits=[{"site": "logits", "op": "add", "value": 100.0, "neuron": 5}]).data["run"]
    said = page("lens", run=late, layer=page.lm.config.n_layers, position=4).data["tokens"]
    assert said[0]["id"] == 5 and said[0]["logit"] == float(
        page("values", run=late, site="logits").arrays["values"][4, 5]
    )
    noted = page("run", text=TEXT, edits=[{"site": "blocks.1.mlp_out", "op": "scale", "value": 1, "position": 3}])
    assert "changed nothing" in noted.data["notes"][0]


def test_a_patch_takes_its_value_from_another_run(page: Page):
    page("run", text=TEXT)
    page("run", text=OTHER)
    source = page.lm.trace(OTHER)

    def patched(**more: Any) -> Tensor:
        edit = {"site": "blocks.1.resid_pre", "op": "patch", "from": "r2", **more}
        name = page("run", text=TEXT, edits=[edit]).data["run"]
        return page("values", run=name, site="logits").arrays["values"]

    expected = page.lm.trace(TEXT, edits=Edit.patch("blocks.1.resid_pre", source, position=2))["logits"][0]
    assert torch.equal(patched(position=2), expected)
    moved = Edit.set("blocks.1.resid_pre", source["blocks.1.resid_pre"][0, 1], position=2)
    assert torch.equal(patched(position=2, from_position=1), page.lm.trace(TEXT, edits=moved)["logits"][0])
    page("run", text=TEXT)
    page("run", text=OTHER)
    head = {"site": "blocks.1.attn.z", "op": "patch", "from": page("run", text=OTHER).data["run"], "head": 1}
    name = page("run", text=TEXT, edits=[head]).data["run"]
    by_hand = page.lm.trace(TEXT, edits=Edit.patch("blocks.1.attn.z", source, head=1))
    assert torch.equal(page("values", run=name, site="logits").arrays["values"], by_hand["logits"][0])
    for wrong in ({"from": "r99"}, {"from": "r1", "op": "zero"}, {"from": "r1", "value": 1.0}, {"from_position": "x"}):
        edit = {"site": "blocks.1.resid_pre", "op": "patch", "from": name, "position": 2} | wrong
        with pytest.raises(BadArgument):
            page("run", text=TEXT, edits=[edit])


def test_experts_are_forbidden_forced_reweighed_and_patched(tmp_path: Path):
    build(drawn("mixtral", 0, **SAVED)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    page = Page(load(tmp_path, quantize="int8", dtype="float32", device="cpu"))
    page("run", text=TEXT)
    page("run", text=OTHER)
    logits, scores = "blocks.1.mlp.router_logits", "blocks.1.mlp.router_scores"
    by_hand = {
        Edit.set(logits, -math.inf, expert=2): {"site": logits, "op": "set", "value": "-inf"},
        Edit.set(scores, 0.5, expert=2): {"site": scores, "op": "set", "value": 0.5},
        Edit.scale(scores, 2.0, expert=2): {"site": scores, "op": "scale", "value": 2.0},
        Edit.patch(logits, page.lm.trace(OTHER), position=3, expert=2):
            {"site": logits, "op": "patch", "from": "r2", "position": 3},
    }  # fmt: skip
    plain = page.lm.trace(TEXT)["logits"][0]
    for edit, sent in by_hand.items():
        name = page("run", text=TEXT, edits=[sent | {"expert": 2}]).data["run"]
        found, expected = page("values", run=name, site="logits").arrays["values"], page.lm.trace(TEXT, edits=edit)
        assert torch.equal(found, expected["logits"][0]) and not torch.equal(found, plain)


def test_the_python_of_an_answer_runs_and_gives_the_same(page: Page):
    page("run", text=TEXT)
    page("run", text=OTHER)
    edits = [{"site": "blocks.1.attn.z", "op": "patch", "from": "r1", "position": 2, "from_position": 1, "head": 1}]
    name = page("run", text=OTHER, edits=edits).data["run"]
    for asked, more in (("head", {"layer": 1, "head": 2}), ("values", {"site": "blocks.1.mlp.post"}),
                        ("values", {"site": "blocks.1.attn.v", "head": 0, "start": 1, "end": 2}),
                        ("row", {"layer": 1, "head": 2, "position": 3}), ("lens", {"layer": 2, "position": 3}),
                        ("lens", {"layer": page.lm.config.n_layers, "position": 3}),
                        ("neurons", {"layer": 1, "position": 3})):  # fmt: skip
        answer = page(asked, run=name, **more)
        *before, last = answer.python.splitlines()
        names: dict[str, Any] = {}
        exec("\n".join(before), names)
        if asked == "head":
            exec(last, names)
            assert torch.equal(names["pattern"][0], answer.arrays["pattern"])
            continue
        value = eval(last, names)
        if asked == "values":
            assert torch.equal(value, answer.arrays["values"])
        elif asked == "row":
            assert torch.equal(value.z, answer.arrays["z"])
        elif asked == "lens":
            assert value.indices.tolist() == [each["id"] for each in answer.data["tokens"]]
        else:
            assert [each.neuron for each in value] == [each["neuron"] for each in answer.data["neurons"]]


def test_the_python_of_a_run_names_each_run_it_rests_on_once(int8: LM):
    """Two patches of the run before, ten times over: each run more is one line more."""
    page = Page(int8)
    answer = page("run", text=TEXT)
    for name in [f"r{n}" for n in range(1, 11)]:
        patches = [
            {"site": "blocks.1.mlp_out", "op": "patch", "from": name, "position": at, "from_position": 1}
            for at in (2, 3)
        ]
        before, answer = len(answer.python), page("run", text=TEXT, edits=patches)
        assert len(answer.python) < before + 400
    lines = [line.split(" = ")[0] for line in answer.python.splitlines() if " = lm.view(" in line]
    assert lines == [*(f"r{n}" for n in range(1, 11)), "view"]
    assert page.served.kept_bytes > sum(run.nbytes for run, _ in page.call.runs.items.values()) + len(answer.python) / 2
    names: dict[str, Any] = {}
    exec(answer.python, names)
    sent = page("values", run=answer.data["run"], site="logits").arrays["values"]
    assert torch.equal(names["view"].read("logits")["logits"][0], sent)


def test_limits_are_told_before_the_pass(int8: LM):
    page = Page(int8, tokens=4, characters=40)
    with pytest.raises(BadArgument, match="at most 4 on this page"):
        page("run", text=TEXT)
    with pytest.raises(BadArgument, match="1 to 40 characters"):
        page("run", text="the cat " * 10)
    with pytest.raises(BadArgument, match="at most 4 on this page"):
        page("tokens", texts=["the cat", TEXT])
    with pytest.raises(BadArgument, match="in all"):
        Page(int8, memory_bytes=1000)("run", text=TEXT)


def test_the_run_that_was_used_last_is_kept(page: Page):
    for _ in range(4):
        page("run", text=TEXT)
    page("head", run="r1", layer=0, head=0)
    page("run", text=TEXT)
    assert list(page.call.runs.items) == ["r3", "r4", "r1", "r5"]
    with pytest.raises(BadArgument, match="which is gone"):
        page("head", run="r2", layer=0, head=0)


def test_a_long_run_over_the_socket(running: Serving):
    said = "the cat sat on the mat " * 100
    with running.reader() as reader:
        answer = reader.answer("run", text=said)
        count = len(answer["answer"]["tokens"])
        assert count >= 600 and answer["arrays"]["thumbnails"].shape == (3, 4, 64, 64)
        head = reader.answer("head", run="r1", layer=2, head=1)["arrays"]
        trace = running.lm.trace(said, "blocks.2.attn.pattern")
        assert torch.equal(head["pattern"], trace["attn.pattern", 2, 1][0])
        full = reader.answer("compare", run="r1")["answer"]
        assert len(full["kl"]) == count and full["sites"]
        assert "send head" in reader.error("values", run="r1", site="blocks.0.attn.pattern")
        assert "none of this reader" in reader.error("head", run="r9", layer=0, head=0)
