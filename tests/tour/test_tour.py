"""The tour: each number of each stage recomputed from the definition, each drawing within 80 columns."""

import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from rich.cells import cell_len

from cutaway.ground.errors import BadArgument
from cutaway.lm import LM, load
from cutaway.model.architecture import nbytes
from cutaway.quant.formats import Mode, quantize_activation, round_activation
from cutaway.quant.linear import Int8Linear
from cutaway.show.layout import plain
from cutaway.tour.draw import draw
from cutaway.tour.stages import Stage, Tour
from cutaway.weights.files import files_of

SETTINGS = {"max_new_tokens": 6, "do_sample": True, "temperature": 0.7, "top_p": 0.8, "seed": 0}


def tour_of(lm: LM, *texts: str, block: int = 1, head: int = 3) -> Tour:
    return Tour(lm, texts or ["the cat sat on the"], block=block, head=head, **SETTINGS)


def test_each_number_is_that_of_a_plain_pass(lm: LM):
    tour = tour_of(lm)
    stages = {stage.number: stage.data for stage in tour.stages()}
    trace = lm.trace("the cat sat on the")
    same = {"rtol": 1e-4, "atol": 1e-4}

    rows = stages[3]["rows"]
    for row, vector in zip(rows, trace["embed.token"][0], strict=True):
        torch.testing.assert_close(torch.tensor(row["first"]), vector[: len(row["first"])], **same)
        assert row["size"] == pytest.approx(vector.pow(2).sum().sqrt().item(), rel=1e-4)
    pattern = torch.tensor(stages[5]["pattern"])
    torch.testing.assert_close(pattern, trace["blocks.1.attn.pattern"][0, 3], **same)
    torch.testing.assert_close(pattern.sum(-1), torch.ones(len(rows)))
    for name in ("resid_pre", "attn_out", "mlp_out"):
        expected = trace[f"blocks.1.{name}"][0, -1].norm().item()
        assert stages[5]["sizes"][name] == pytest.approx(expected, rel=1e-3)
    for name, vector in stages[5]["vectors"].items():
        value = trace[f"blocks.1.attn.{name}"][0, -1, vector["head"]]
        torch.testing.assert_close(torch.tensor(vector["first"]), value[: len(vector["first"])], **same)
    last = stages[6]["rows"][-1]["top"][0]
    probs = trace["logits"][0, -1].softmax(-1)
    assert last["id"] == int(probs.argmax())  # the last block's lens is the model's own answer
    assert last["prob"] == pytest.approx(probs.max().item(), rel=1e-3)
    assert stages[7]["top"][0]["logit"] == pytest.approx(trace["logits"][0, -1].max().item(), rel=1e-4)


def test_in_full_precision_there_are_no_codes(lm: LM):
    stages = {stage.number: stage.data for stage in tour_of(lm).stages()}
    assert (stages[2]["int8"]["layers"], stages[2]["int8"]["bytes"]) == ([], 0)
    assert stages[5]["codes"] is None


@pytest.mark.parametrize("mode", get_args(Mode))
def test_the_codes_are_real_and_make_the_q_that_is_shown(lm: LM, mode: str):
    small = load(lm.checkpoint.path, quantize=mode, device="cpu")
    gain = small.decoder.get_submodule("blocks.1.ln1" if not lm.config.post_norm else "blocks.0.ln2").weight
    gain.data = gain.data * 5  # type: ignore[operator, union-attr]
    texts = ["the cat sat on the", "naïve café and the mat"]  # the first is padded
    tour = tour_of(small, *texts)
    stages = {stage.number: stage.data for stage in tour.stages()}

    layers = {n: m for n, m in small.decoder.named_modules() if isinstance(m, Int8Linear)}
    told = stages[2]["int8"]
    assert told["layers"] == list(layers) and len(layers) == 4 * 3 + 1
    files = sum(file.stat().st_size for file in files_of(lm.checkpoint.path))
    assert (told["bytes_model"], told["bytes_checkpoint"]) == (nbytes(small.decoder), files)
    assert told["bytes"] == sum(part.nbytes for m in layers.values() for part in m.state_dict().values())
    assert told["bytes_saved"] == files - nbytes(small.decoder)
    assert {row["name"] for row in stages[2]["modules"] if row["dtype"] == "int8"} == {
        name.replace("blocks.0.", "blocks.*.") for name in layers if not name.startswith(("blocks.1.", "blocks.2."))
    }

    codes, layer, row = stages[5]["codes"], layers["blocks.1.attn.qkv"], 3 * lm.config.d_head
    tokens = small.tokenize(texts)
    x = small.trace(tokens, codes["site"])[codes["site"]]
    assert (codes["layer"], codes["row"], codes["mode"]) == ("blocks.1.attn.qkv", row, mode)
    assert codes["weight"]["codes"] == layer.codes[row][:24].tolist()
    assert codes["weight"]["scales"] == layer.scale[row].float().reshape(-1).tolist()
    last, x = int(tokens.last[0]), x.flatten(0, 1)
    if mode == "int8":
        each, scale, outlier = *round_activation(x), torch.zeros_like(x, dtype=torch.bool)
    else:
        each, scale, outlier = quantize_activation(x, pooled=mode == "llm-int8-pooled")
    assert codes["activation"]["codes"] == each[last][:24].tolist()
    assert codes["activation"]["scales"] == pytest.approx(scale[last].reshape(-1).tolist(), rel=1e-6)
    assert codes["outlier_columns"] == outlier[last].nonzero()[:, 0].tolist()
    assert bool(codes["outlier_columns"]) == (mode != "int8")
    groups = (each[last].long() * layer.codes[row].long()).split(32 if mode == "int8" else x.shape[-1])
    assert codes["products"] == [int(group.sum()) for group in groups]
    assert codes["value"] == pytest.approx(stages[5]["vectors"]["q"]["first"][0], rel=1e-4, abs=1e-4)
    fits_80_columns([*tour.stages()])


def test_the_positions_are_the_models_own(lm: LM):
    tour = tour_of(lm)
    stage = list(tour.stages())[3].data
    if stage["kind"] == "learned":
        value = lm.trace("the cat sat on the")["embed.position"][0]
        torch.testing.assert_close(torch.tensor([row["first"] for row in stage["rows"]]), value[:, :24])
        return
    fastest = [row["degrees"][0] for row in stage["rows"]]
    assert fastest == pytest.approx([(position * 180 / torch.pi) % 360 for position in range(len(fastest))], abs=1e-2)
    assert stage["tokens_per_turn"][0] == pytest.approx(2 * torch.pi)


def test_the_text_is_the_one_that_generate_writes(lm: LM):
    tour = tour_of(lm)
    list(tour.stages())
    last = tour.draw_stage(list(tour.steps())).data
    assert last["texts"] == [
        {"prompt": "the cat sat on the", "text": lm.generate("the cat sat on the", **SETTINGS).text}
    ]


def test_everything_is_json_and_every_drawing_fits_80_columns(lm: LM):
    for texts in (["the cat sat on the"], ["the", "naïve café 🙂🙂 and the dog ran to the mat on the cat"]):
        tour = tour_of(lm, *texts)
        stages = [*tour.stages(), tour.draw_stage(list(tour.steps()))]
        assert [stage.number for stage in stages] == list(range(1, 9))
        json.dumps([vars(stage) for stage in stages], allow_nan=False)
        fits_80_columns(stages)


def fits_80_columns(stages: list[Stage]) -> None:
    for stage in stages:
        assert all(cell_len(line) <= 80 for line in plain(draw(stage)).splitlines()), stage.title


@pytest.mark.parametrize(("where", "message"), [({"block": 3}, "--block 3"), ({"head": -1}, "--head -1")])
def test_a_block_or_head_out_of_range_is_refused(lm: LM, where: dict[str, int], message: str):
    with pytest.raises(BadArgument, match=f"{message}; expected 0 to"):
        tour_of(lm, **where)


def test_folder_is_left_as_it_was(lm: LM):
    before = sorted(Path(lm.checkpoint.path).iterdir())
    list(tour_of(lm).stages())
    assert sorted(Path(lm.checkpoint.path).iterdir()) == before
