"""`cutaway compare`: each number in --json recomputed from two plain runs, the drawing, and what is refused."""

import gc
import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import cutaway as package
from cutaway.analysis.compare import compared_sites
from cutaway.apps.cli.common import MODES
from cutaway.quant.formats import Mode, quantize_activation, round_activation
from cutaway.quant.linear import Int8Linear
from cutaway.weights.files import files_of
from cutaway.weights.opening import quantize

from .conftest import Run, weights
from .test_bad_input import refused

TEXT, TEXTS = "the cat sat on the", ["the cat sat on the mat", "naïve"]


@pytest.fixture(scope="module")
def loud(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with outliers in what the attention of block 1 reads."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path_factory.mktemp("loud") / "model"))
    tensors = weights()
    tensors["model.layers.1.input_layernorm.weight"][[3, 17]] = 12.0
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def told(cutaway: Run, folder: Path, *words: object) -> dict[str, Any]:
    done = cutaway("compare", *words, "--model", folder, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.mark.parametrize("mode", MODES)
def test_every_number_is_that_of_two_plain_runs(cutaway: Run, loud: Path, mode: str):
    data = told(cutaway, loud, *TEXTS, "--quantize", mode)
    lms = [package.load(loud, quantize=how) for how in (None, mode)]
    full, small = (lm.trace(TEXTS) for lm in lms)
    mask = full.tokens.mask.bool()
    assert list(data["sites"]) == compared_sites(lms[0].config) and data["mode"] == mode
    for site, apart in data["sites"].items():
        a, b = full[site][mask].double(), small[site][mask].double()
        assert apart["relative_error"] == pytest.approx(float((a - b).norm() / a.norm()), rel=1e-3, abs=1e-6)
        assert apart["cosine"] == pytest.approx(float((a * b).sum() / a.norm() / b.norm()), rel=1e-5)
    logits = [trace["logits"].double().log_softmax(-1) for trace in (full, small)]
    kl = (logits[0].exp() * (logits[0] - logits[1])).sum(-1)
    assert data["next"]["mean_kl"] == pytest.approx(float(kl[mask].mean()), rel=1e-3)
    same = (logits[0].argmax(-1) == logits[1].argmax(-1))[mask]
    assert data["next"]["top1_agreement"] == pytest.approx(float(same.float().mean()))
    for row, last in enumerate(data["next"]["last"]):
        assert torch.tensor(data["next"]["kl"][row]).allclose(kl[row][mask[row]].float(), rtol=1e-3)
        for side, log_probs in zip(("full", "int8"), logits, strict=True):
            best = log_probs[row][mask[row]][-1].exp().topk(5)
            assert [token["id"] for token in last[side]] == best.indices.tolist()
            assert [token["prob"] for token in last[side]] == pytest.approx(best.values.tolist(), rel=1e-3)
            assert last[side][0]["text"] == lms[0].tokenizer.pieces(best.indices[:1].tolist())[0].visible
    sizes = [sum(t.nbytes for t in {t.data_ptr(): t for t in lm.decoder.state_dict().values()}.values()) for lm in lms]
    files = sum(file.stat().st_size for file in files_of(loud))
    assert data["bytes"] == {"full": sizes[0], "int8": sizes[1], "checkpoint": files}


def test_the_outliers_are_those_of_the_8_bit_run(cutaway: Run, loud: Path):
    data = told(cutaway, loud, TEXT)["outliers"]
    assert (data["threshold"], data["of"]) == (6.0, 9)
    trace = package.load(loud).trace(TEXT)
    inputs = {"attn.qkv": "ln1.out", "attn.out": "attn.z", "mlp.up": "ln2.out", "mlp.down": "mlp.post"}
    inputs = {f"blocks.{i}.{layer}": f"blocks.{i}.{site}" for i in (0, 1) for layer, site in inputs.items()}
    expected = []
    for layer, site in (inputs | {"unembed.head": "ln_final.out"}).items():
        x = trace[site].flatten(2)[0].abs() >= 6
        columns = x.any(0).nonzero()[:, 0].tolist()
        if columns:
            tokens = int(x.any(1).sum())
            expected.append({"layer": layer, "site": site, "columns": columns, "tokens": tokens, "of": len(x)})
    assert data["layers"] == expected
    assert {"blocks.1.attn.qkv"} <= {layer["layer"] for layer in expected}


@pytest.mark.parametrize("mode", ["int8", "llm-int8"])
@pytest.mark.parametrize(("block", "layer"), [(1, "attn.qkv"), (0, "mlp.down"), (1, "attn.out"), (0, "unembed.head")])
def test_the_codes_are_those_of_the_layer(cutaway: Run, loud: Path, block: int, layer: str, mode: Mode):
    data = told(cutaway, loud, TEXT, "--block", block, "--layer", layer, "--quantize", mode)["layer"]
    name = layer if layer == "unembed.head" else f"blocks.{block}.{layer}"
    full, small = package.load(loud, quantize=None), package.load(loud, quantize=mode)
    one: Any = small.decoder.get_submodule(name)
    assert isinstance(one, Int8Linear) and data["name"] == name and data["at"] == "␣the"
    x = small.trace(TEXT)[data["site"]].flatten(2)[0]
    if mode == "int8":
        codes, scale, outlier = *round_activation(x), torch.zeros_like(x, dtype=torch.bool)
    else:
        codes, scale, outlier = quantize_activation(x)
    out = data["output"]
    assert out["weight"]["codes"] == one.codes[0][:24].tolist()
    assert out["weight"]["scales"] == one.scale[0].float().reshape(-1).tolist()
    assert out["activation"]["codes"] == codes[-1][:24].tolist()
    assert out["activation"]["scales"] == pytest.approx(scale[-1].reshape(-1).tolist())
    groups = (codes[-1].long() * one.codes[0].long()).split(32 if mode == "int8" else x.shape[-1])
    assert out["products"] == [int(group.sum()) for group in groups]
    assert out["outlier_columns"] == outlier[-1].nonzero()[:, 0].tolist()
    assert out["value"] == pytest.approx(float(one(x)[-1, 0]), rel=1e-4, abs=1e-5)
    assert data["outlier_columns"] == outlier.any(0).nonzero()[:, 0].tolist()
    apart = torch.where(outlier, x, 0)[-1].double() @ one.weight.double().T
    assert data["outlier_share"] == pytest.approx(float(apart.norm() / one(x)[-1].norm()), rel=1e-4)
    exact = x[-1] @ full.decoder.get_submodule(name).weight.T  # type: ignore[operator, union-attr]
    assert data["error"] == pytest.approx(float((one(x)[-1] - exact).norm() / exact.norm()), rel=1e-3)
    assert data["bytes"] == one.codes.numel() + one.scale.nbytes
    assert data["bytes_saved"]["float32"] == 4 * one.codes.numel() - data["bytes"]


def test_more_sites_can_be_compared(cutaway: Run, loud: Path):
    data = told(cutaway, loud, TEXT, "--sites", "blocks.1.attn.*")
    assert 0 < data["sites"]["blocks.1.attn.pattern"]["relative_error"] < 1
    assert 0 < data["sites"]["blocks.1.attn.scores"]["relative_error"] < 1


@pytest.mark.parametrize("mode", MODES)
def test_the_drawing_fits_80_columns_and_says_it_all(cutaway: Run, loud: Path, mode: str):
    done = cutaway("compare", "naïve café 🙂🙂 on the mat", "a", "--model", loud, "--quantize", mode, "--block", 1)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert max(map(len, lines[2:])) <= 80  # the first lines hold the name as it was given
    for part in ("Differences by site", "logits", "blocks.1.attn.qkv", "weight row 0", f"KL(full ‖ {mode})", "% less",
                 "full precision"):  # fmt: skip
        assert part in done.out
    assert "Σ code·code" in done.out and ("outliers' share" in done.out) == (mode != "int8")


def test_the_first_model_is_gone_when_the_second_is_loaded(cutaway: Run, loud: Path, monkeypatch: pytest.MonkeyPatch):
    opened, real = [], package.load

    def watched(*args: Any, **kwargs: Any) -> package.LM:
        assert all(model() is None for model in opened)
        lm = real(*args, **kwargs)
        opened.append(weakref.ref(lm.decoder))
        return lm

    monkeypatch.setattr("cutaway.lm.load", watched)
    gc.disable()  # no help from a chance collection
    try:
        told(cutaway, loud, TEXT)
    finally:
        gc.enable()
    assert len(opened) == 2


def test_what_cannot_be_compared_is_one_sentence(cutaway: Run, tiny_folder: Path, tmp_path: Path):
    run = ["compare", TEXT, "--model", tiny_folder]
    refused(cutaway(*run, "--quantize", "none"), "--quantize none", "int8, llm-int8 or llm-int8-pooled")
    refused(cutaway(*run, "--block", 2), "block", "0 to 1")
    refused(cutaway(*run, "--layer", "attn.q"), "attn.q", "attn.qkv, attn.out, mlp.up, mlp.down")
    refused(cutaway(*run, "--sites", "blocks.0.atn.q"), "no site 'blocks.0.atn.q'")
    refused(cutaway("compare", ""), "an empty text")
    out = quantize(tiny_folder, tmp_path / "out")
    refused(cutaway("compare", TEXT, "--model", out), "saved as 'int8'", "load the model that it was made from")
