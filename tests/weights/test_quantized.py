"""Loading in 8 bits and keeping it: codes equal those of the whole weight, a saved folder opens to the same model."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cutaway.ground.errors import BadArgument, BadCheckpoint, NotFinite
from cutaway.lm import LM, load
from cutaway.quant.formats import Mode, quantize_weight
from cutaway.quant.linear import Int8Linear
from cutaway.weights import quantizing
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.load import load_decoder
from cutaway.weights.opening import quantize
from cutaway.weights.quantizing import MappedEmbedding
from cutaway.weights.save import MANIFEST, WEIGHTS, check_files
from tests.tiny import CONFIGS, WITH_TOKENIZER, saved, tiny_lm

QUANTIZED = [f"blocks.{i}.{name}" for i in range(3) for name in ("attn.qkv", "attn.out", "mlp.up", "mlp.down")]
QUANTIZED += ["lm_head"]


@pytest.fixture(params=WITH_TOKENIZER)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    tiny_lm(request.param, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A llama in 8 bits; beside it lies the model that it was made from."""
    tiny_lm("llama", tmp_path / "model")
    return quantize(tmp_path / "model", tmp_path / "out")


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("name", CONFIGS)
def test_codes_are_those_of_the_whole_weight(name: str, tmp_path: Path, mode: Mode):
    folder, _ = saved(name, tmp_path)
    checkpoint = open_checkpoint(folder)
    plain = load_decoder(checkpoint, dtype=torch.float32, device="cpu")
    small = load_decoder(checkpoint, dtype=torch.float32, device="cpu", quantize=mode)
    layers = {n: m for n, m in small.named_modules() if isinstance(m, Int8Linear)}
    in_a_block = 2 + 2 * (plain.config.n_experts or 1)  # each expert has an up and a down
    assert len(layers) == in_a_block * plain.config.n_layers + 1
    for name, layer in layers.items():
        linear = plain.get_submodule(name)
        codes, scale = quantize_weight(linear.weight, mode)
        assert torch.equal(layer.codes, codes) and torch.equal(layer.scale, scale), name
        assert (layer.bias is None) == (linear.bias is None)
        assert layer.bias is None or torch.equal(layer.bias, linear.bias)


def test_the_embedding_stays_in_its_file_and_norms_are_never_quantized(folder: Path):
    lm = load(folder, device="cpu")
    assert isinstance(lm.decoder.embed.token, MappedEmbedding)
    plain = load(folder, quantize=None, device="cpu")
    tokens = plain.tokenize("the cat sat on the mat")
    sites = ["embed.token", "blocks.0.resid_pre"]
    assert all(torch.equal(lm.trace(tokens, sites)[site], plain.trace(tokens, sites)[site]) for site in sites)
    assert torch.equal(lm.decoder.blocks[0].ln1.weight, plain.decoder.blocks[0].ln1.weight)


def test_keep_leaves_a_layer_in_full_precision(folder: Path):
    lm = load(folder, keep=["lm_head", "blocks.1.mlp.down"], device="cpu")
    assert isinstance(lm.decoder.unembed.head, nn.Linear)
    assert isinstance(lm.decoder.blocks[1].mlp.down, nn.Linear)
    assert isinstance(lm.decoder.blocks[0].mlp.down, Int8Linear)
    with pytest.raises(BadArgument, match="keep='lm_tail'"):
        load(folder, keep=["lm_tail"])


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("keep", [[], ["lm_head"]])
def test_a_saved_folder_opens_to_the_same_model(folder: Path, tmp_path: Path, mode: str, keep: list[str]):
    out = quantize(folder, tmp_path / "out", mode=mode, keep=keep)
    direct, reopened = load(folder, quantize=mode, keep=keep, device="cpu"), load(out, quantize=mode, device="cpu")
    text = "the dog ran to the cat"
    assert torch.equal(direct.logits(text), reopened.logits(text))
    assert direct.generate(text, max_new_tokens=5).text == reopened.generate(text, max_new_tokens=5).text
    assert WEIGHTS in check_files(out)


@pytest.mark.parametrize("mode", get_args(Mode))
def test_what_is_opened_lies_in_the_file(tmp_path: Path, mode: Mode):
    tiny_lm("llama", tmp_path / "model")
    out = quantize(tmp_path / "model", tmp_path / "out", mode=mode)
    layer = load(out, quantize=mode, device="cpu").decoder.blocks[0].attn.qkv
    codes = getattr(layer, layer.STORED[0])
    assert codes.data_ptr() % 64 == 0
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(out) in line]
    spans = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in maps]
    assert any(start <= codes.data_ptr() < end for start, end in spans)


def test_a_batch_gives_each_text_exactly_what_it_gets_alone(folder: Path):
    """Where shapes are the same, bit for bit; within 1e-5 of the largest logit otherwise."""
    lm = load(folder, device="cpu")
    texts = ["the cat sat on the", "the dog ran to the", "naïve"]
    alone = [lm.logits(text)[0] for text in texts]
    same = lm.logits(texts[:2])
    assert len(alone[0]) == len(alone[1]) == same.shape[1]
    assert all(torch.allclose(same[i], alone[i], rtol=0, atol=1e-5 * alone[i].abs().max()) for i in (0, 1))
    tokens = lm.tokenize(texts)
    batch = lm.logits(tokens)
    for i, expected in enumerate(alone):
        got = batch[i][tokens.mask[i].bool()]
        assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def changed(folder: Path, name: str, change: Callable[[torch.Tensor], object], model: str = "llama") -> Path:
    """A model of which one tensor was changed."""
    _, made = saved(model, folder)
    state = {n: p.clone() for n, p in made.state_dict().items()}
    change(state[name])
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("mode", get_args(Mode))
def test_a_weight_that_is_not_finite_is_refused_by_name(tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch):
    name = "model.layers.1.mlp.up_proj.weight"
    monkeypatch.setattr(quantizing.row_slices, "__defaults__", (32 * 4 * 16,))  # 16 rows at a time
    changed(tmp_path, name, lambda w: w[35, 4].fill_(torch.nan))
    with pytest.raises(NotFinite, match=f"NaN or infinity in row 35 of the tensor '{name}'; expected finite"):
        load(tmp_path, quantize=mode)


def test_a_weight_too_large_for_its_groups_scale_is_refused_by_name(tmp_path: Path):
    name = "model.layers.1.self_attn.k_proj.weight"
    changed(tmp_path / "llama", name, lambda w: w[19, 4].fill_(-1e7))
    with pytest.raises(NotFinite, match=rf"\|w\| up to 1e\+07 in row 19 of the tensor '{name}'; .*quantize='llm-int8'"):
        load(tmp_path / "llama")
    assert load(tmp_path / "llama", quantize="llm-int8").logits(torch.tensor([[3, 5]])).isfinite().all()
    name = "transformer.h.2.mlp.c_fc.weight"  # stored [in, out]
    changed(tmp_path / "gpt2", name, lambda w: w[4, 70].fill_(1e7), "gpt2")
    with pytest.raises(NotFinite, match=f"in column 70 of the tensor '{name}'"):
        load(tmp_path / "gpt2")


def test_scales_that_float16_holds_as_subnormal_numbers_load(tmp_path: Path):
    name = "model.layers.1.mlp.down_proj.weight"
    folder = changed(tmp_path, name, lambda w: w.mul_(1e-5))
    layer = load(folder).decoder.blocks[1].mlp.down
    full = load(folder, quantize=None).decoder.blocks[1].mlp.down.weight
    assert 0 < layer.scale.max() < 2**-14
    codes, scale = quantize_weight(full)
    assert torch.equal(layer.codes, codes) and torch.equal(layer.scale, scale)
    step = scale.float().repeat_interleave(32, 1)[:, : full.shape[1]] / 2 + 127 * 2**-25  # the scale's own rounding
    assert ((layer.weight - full).abs() <= step * 1.001).all()


def spoil_layout(out: Path) -> None:
    manifest = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps(manifest | {"layout": 99}))


def earlier_layout(out: Path) -> None:
    manifest = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps(manifest | {"layout": 1, "mode": "int8-weight"}))


def truncate(out: Path) -> None:
    data = (out / WEIGHTS).read_bytes()
    (out / WEIGHTS).write_bytes(data[:-100])


def lose_weights(out: Path) -> None:
    (out / WEIGHTS).unlink()


def lose_hashes(out: Path) -> None:
    manifest = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps(manifest | {"files": {}}))


def lose_tensor(out: Path) -> None:
    tensors = load_file(out / WEIGHTS)
    save_file({name: t for name, t in tensors.items() if name != "unembed.ln_final.weight"}, out / WEIGHTS)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_layout, "layout 99"),
        (earlier_layout, "layout 1 in .*; expected layout 2; quantize the model again"),
        (truncate, "ends too early"),
        (lose_weights, f"no {WEIGHTS}"),
        (lose_hashes, f"found no hashes in .*{MANIFEST}; expected a hash of every file; quantize the model again"),
        (lose_tensor, "'unembed.ln_final.weight' missing, .*; expected the tensors that config.json asks for"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(spoil, message: str, out: Path):
    spoil(out)
    with pytest.raises(BadCheckpoint, match=message):
        load(out)


def test_a_flipped_bit_is_caught_by_its_hash(out: Path):
    data = bytearray((out / WEIGHTS).read_bytes())
    data[-5] ^= 1
    (out / WEIGHTS).write_bytes(data)
    with pytest.raises(BadCheckpoint, match="sha256"):
        check_files(out)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, out: quantize(out, model.parent / "again"), "in 8 bits already"),
        (lambda model, out: quantize(model, out), "there already"),
        (lambda model, out: quantize(model, model.parent / "new", mode="int3"), "quantize='int3'"),
        (lambda model, out: quantize(model, model.parent / "new", mode="int8-weight"), "quantize='int8'"),
        (
            lambda model, out: load(model, quantize="int8-weight"),
            "earlier version; expected 'int8'; pass quantize='int8'",
        ),
        (lambda model, out: load(model, quantize="int8-pooled"), "expected 'llm-int8-pooled'"),
        (lambda model, out: load(out, quantize="llm-int8"), "saved as 'int8'"),
        (lambda model, out: load(out, quantize=None), "saved as 'int8'"),
        (lambda model, out: load(out, keep=["lm_head"]), "in 8 bits already"),
        (lambda model, out: load(model, keep="lm_head"), "found keep='lm_head'; expected names of layers"),
        (
            lambda model, out: quantize(model, model.parent / "new", keep=QUANTIZED),
            "found no layer in 8 bits; expected at least one; pass mode='int8', and fewer layers to keep",
        ),
        (
            lambda model, out: load(out).compare("the cat"),
            "which holds 8-bit weights only; expected a model in full precision; open the model that it was made from",
        ),
    ],
)
def test_what_makes_no_sense_is_one_sentence(call, message: str, out: Path, tmp_path: Path):
    with pytest.raises(BadArgument, match=message):
        call(tmp_path / "model", out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "out"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny_lm("llama", tmp_path / "model")
    monkeypatch.setattr(shutil, "copyfile", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        quantize(tmp_path / "model", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(("mode", "most"), [("int8", 0.04), ("llm-int8", 0.1), ("llm-int8-pooled", 0.1)])
def test_the_result_of_8_bits_is_near_full_precision(folder: Path, mode: Mode, most: float):
    """Random weights, so no claim of quality: only that codes and scales mean what they say."""
    text = "the cat sat on the mat"
    plain, small = (load(folder, quantize=q, device="cpu").logits(text) for q in (None, mode))
    assert 0 < (plain - small).norm() / plain.norm() < most


def test_a_saved_model_is_an_lm_like_any_other(out: Path):
    lm = load(out)
    assert isinstance(lm, LM)
    assert "int8" in str(lm) and lm.trace("the cat", "blocks.0.attn.q").attention == "fused"


def test_loading_does_not_import_torchs_compiler(folder: Path):
    """It takes a second, which a user would wait at every start."""
    code = f"import sys, cutaway; cutaway.load({str(folder)!r}); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
