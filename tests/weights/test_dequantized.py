"""Checkpoints of other tools that are read: the logits of the float32 weights that their codes and scales stand for."""

import json
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import cutaway
from cutaway.ground.errors import BadCheckpoint, UnsupportedModel
from tests.tiny import build, llama, set_config

from .test_names import TWO

IDS = torch.tensor([[3, 5, 7, 2, 9, 4, 10, 1, 6]])
SIZES = {"hidden_size": 64, "intermediate_size": 128}  # bitsandbytes' CPU code is wrong where 64 divides no row
FORMS: dict[str, dict[str, Any]] = {
    "8 bits": {"load_in_8bit": True},
    "4 bits, nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "4 bits, fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "4 bits, scales in 8": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore")
def test_what_bitsandbytes_saved_is_read_as_it_dequantizes_it(form: str, tmp_path: Path) -> None:
    plain = build(llama(**SIZES))
    plain.save_pretrained(tmp_path / "plain")
    quantized = AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=BitsAndBytesConfig(**FORMS[form]), device_map="cpu"
    )
    quantized.save_pretrained(tmp_path / "saved")
    for name, layer in quantized.named_modules():
        weight = getattr(layer, "weight", None)
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            weight = dequantize_4bit(weight.data, weight.quant_state)
        elif isinstance(layer, bitsandbytes.nn.Linear8bitLt):
            weight = weight.data.float() * (weight.SCB / 127)[:, None]
        if isinstance(weight, Tensor):
            plain.get_submodule(name).weight.data = weight.float()
    with torch.no_grad():
        expected = plain(IDS).logits
    lm = cutaway.load(tmp_path / "saved", quantize=None, device="cpu")
    torch.testing.assert_close(lm.logits(IDS), expected, rtol=1e-4, atol=1e-4)
    bits = form[0]
    assert lm.notes == [
        f"21 matrices are stored in bitsandbytes' {bits} bits and read as the float32 that these stand for"
    ]
    assert cutaway.load(tmp_path / "saved", device="cpu").check(TWO).passed  # its weights are those of the files
    with pytest.raises(UnsupportedModel, match="bitsandbytes"):
        cutaway.load(quantized)


def fp8(folder: Path, kind: str, scales: str) -> tuple[Path, Tensor]:
    """A folder whose matrices are codes of fp8 or int8, and the logits of the weights that these stand for."""
    model = build(llama(**SIZES))
    model.save_pretrained(folder)
    state: dict[str, Tensor] = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            state[name] = weight
            continue
        n, k = weight.shape
        shape = {"tensor": (1, 1), "rows": (n, 1), "blocks": (-(-n // 40), -(-k // 24))}[scales]
        scale = torch.rand(shape) * 0.01 + 0.01
        full = scale.repeat_interleave(40, 0)[:n].repeat_interleave(24, 1)[:, :k] if scales == "blocks" else scale
        codes = (weight / full).round().clamp(-127, 127).to(torch.int8 if kind == "int8" else torch.float8_e4m3fn)
        model.get_parameter(name).data = codes.float() * full
        leaf = "_scale_inv" if scales == "blocks" else "_scale"
        stored = scale.reshape(-1) if scales == "tensor" else scale
        state |= {name: codes, name + leaf: stored, name.replace("weight", "input_scale"): torch.ones(1)}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with torch.no_grad():
        return folder, model(IDS).logits


WEIGHTS_8 = {"config_groups": {"g": {"weights": {"num_bits": 8}}}, "quant_method": "compressed-tensors"}
CONFIGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "DeepSeek and Qwen": ("fp8", "blocks", {"quant_method": "fp8", "weight_block_size": [40, 24]}),
    "compressed-tensors": ("fp8", "rows", WEIGHTS_8 | {"format": "float-quantized"}),
    "compressed-tensors, one scale": ("fp8", "tensor", WEIGHTS_8 | {"format": "naive-quantized"}),
    "compressed-tensors, int8": ("int8", "rows", WEIGHTS_8 | {"format": "int-quantized"}),
    "FBGEMM": ("fp8", "rows", {"quant_method": "fbgemm_fp8"}),
    "not said": ("fp8", "rows", {}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_codes_with_scales_are_read(name: str, tmp_path: Path) -> None:
    kind, scales, quantization = CONFIGS[name]
    folder, expected = fp8(tmp_path, kind, scales)
    set_config(folder, quantization_config=quantization)
    lm = cutaway.load(folder, quantize=None, device="cpu")
    torch.testing.assert_close(lm.logits(IDS), expected, rtol=1e-4, atol=1e-4)
    assert lm.notes == ["21 matrices are stored in 8 bits with scales and read as the float32 that these stand for"]


def test_blocks_of_a_size_that_no_file_says_and_scales_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder, _ = fp8(tmp_path, "fp8", "blocks")
    with pytest.raises(UnsupportedModel, match=r"an fp8 or compressed-tensors checkpoint"):
        cutaway.load(folder)
    set_config(folder, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    with pytest.raises(
        BadCheckpoint, match=r"_proj.weight' of shape .*expected \[1, 1\] of .*weight_scale_inv, not \["
    ):
        cutaway.load(folder)


def test_codes_in_4_bits_that_do_not_fit_their_shape_are_refused(tmp_path: Path) -> None:
    build(llama(**SIZES)).save_pretrained(tmp_path)
    state, name = load_file(tmp_path / "model.safetensors"), "model.layers.0.mlp.up_proj.weight"
    said = torch.tensor(list(b'{"shape": [128, 64], "blocksize": 64}'), dtype=torch.uint8)
    codes, of_state = torch.zeros(100, 1, dtype=torch.uint8), f"{name}.quant_state.bitsandbytes__nf4"
    parts = {name: codes, of_state: said, f"{name}.absmax": torch.ones(128), f"{name}.quant_map": torch.ones(16)}
    save_file(state | parts, tmp_path / "model.safetensors", {"format": "pt"})
    shape = r"of shape \[100, 1\]; expected 128 × 64 in blocks of 64"
    with pytest.raises(BadCheckpoint, match=rf"found '{name}' {shape}, as {of_state} says; fetch the checkpoint again"):
        cutaway.load(tmp_path)


@pytest.mark.parametrize("bits", [4, 16])
def test_compressed_tensors_in_other_forms_are_refused_by_name(bits: int, tmp_path: Path) -> None:
    folder, _ = fp8(tmp_path, "fp8", "rows")
    quantization = json.loads(json.dumps(WEIGHTS_8 | {"format": "pack-quantized"}).replace("8", str(bits)))
    set_config(folder, quantization_config=quantization)
    with pytest.raises(UnsupportedModel, match=f"a quantized checkpoint: compressed-tensors, {bits} bits a weight"):
        cutaway.load(folder)
