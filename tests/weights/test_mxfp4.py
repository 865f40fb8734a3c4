"""MXFP4: a folder as gpt-oss is published, and its GGUF, give the values that transformers and the gguf package unpack,
and mode "int8" holds each of them exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from cutaway.ground.errors import BadCheckpoint, NotFinite, UnsupportedModel
from cutaway.lm import LM, load
from cutaway.quant.linear import Int8Linear
from cutaway.weights.files import mxfp4
from cutaway.weights.save import save
from tests.model_types import drawn, rope
from tests.tiny import build, set_config
from tests.weights.gguf_converted import converted

from .test_names import TWO

IDS = torch.tensor([[3, 5, 7, 2, 9, 4, 10, 1, 6]])
CONFIG = drawn("gpt_oss", 0, hidden_size=64, intermediate_size=96, rope_parameters=rope())
STEM = "model.layers.1.mlp.experts.gate_up_proj"


def packed(folder: Path) -> tuple[Path, Tensor]:
    """A folder of random blocks and scales, and the logits of what transformers unpacks from them."""
    model = build(CONFIG, scale=0.15, attention="eager")
    model.save_pretrained(folder)
    random, state = torch.Generator().manual_seed(3), {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            state[name] = weight
            continue
        experts, k, n = weight.shape
        blocks = torch.randint(256, (experts, n, k // 32, 16), generator=random, dtype=torch.uint8)
        scales = torch.randint(120, 125, (experts, n, k // 32), generator=random, dtype=torch.uint8)
        model.get_parameter(name).data = convert_moe_packed_tensors(blocks, scales).float()
        state |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    set_config(folder, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    with torch.no_grad():
        return folder, model(IDS).logits


def held_exactly(int8: LM, full: LM) -> None:
    """The experts' codes and scales are the numbers of the model in full precision."""
    for name, layer in int8.decoder.named_modules():
        if "experts" in name and isinstance(layer, Int8Linear):
            plain: Any = full.decoder.get_submodule(name)
            assert torch.equal(layer.codes * layer.scale.float().repeat_interleave(32, 1), plain.weight)


def test_a_published_folder_has_the_logits_of_transformers_and_int8_holds_it_exactly(tmp_path: Path) -> None:
    folder, expected = packed(tmp_path)
    full, int8 = (load(folder, quantize=mode, dtype="float32", device="cpu") for mode in (None, "int8"))
    torch.testing.assert_close(full.logits(IDS), expected, rtol=1e-4, atol=1e-4)
    said = (
        "24 matrices are stored in MXFP4 and read as the float32 that these stand for, which mode int8 holds exactly "
    )
    assert full.notes == int8.notes == [said + "wherever float16 holds a scale"]
    held_exactly(int8, full)
    assert int8.check(TWO).passed and full.check(TWO).passed
    save(int8.decoder, int8.checkpoint, tmp_path / "saved", name="random")
    assert torch.equal(load(tmp_path / "saved", device="cpu").logits(IDS), int8.logits(IDS))
    assert load(folder, quantize="llm-int8", device="cpu").logits(IDS).isfinite().all()


def test_a_gguf_of_it_is_held_exactly_too(tmp_path: Path) -> None:
    path = converted(build(CONFIG, scale=0.15), tmp_path / "m.gguf", "MXFP4")
    full, int8 = (load(path, quantize=mode, dtype="float32", device="cpu") for mode in (None, "int8"))
    held_exactly(int8, full)


def test_every_code_and_exponent_is_the_number_of_the_standard() -> None:
    codes = mxfp4.doubled(torch.arange(16, dtype=torch.uint8) * 17)[:, 0].repeat(256, 1, 2)
    exponents = torch.arange(256).to(torch.uint8)[:, None]
    magnitudes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
    expected = torch.cat((magnitudes, -magnitudes)).repeat(2) * 2.0 ** (exponents.double() - 127)
    values = mxfp4.values(codes, exponents)
    assert torch.equal(values[:253].double(), expected[:253])
    of_codes, scale = mxfp4.groups(codes, exponents)
    held = slice(128 - 24, 128 + 15 + 4)  # float16's exponents, and three that the codes have room for
    assert torch.equal(of_codes[held] * scale[held].double(), expected[held])
    assert scale[held.stop :].isinf().all()
    small = of_codes[: held.start] * scale[: held.start].double()
    assert (small - expected[: held.start]).abs().max() <= 2.0**-25


def test_parts_that_are_missing_or_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder, _ = packed(tmp_path)
    state = load_file(folder / "model.safetensors")

    def saved(**changes: Tensor | None) -> None:
        whole = state | {f"{STEM}_{part}": value for part, value in changes.items()}
        save_file({n: t for n, t in whole.items() if t is not None}, folder / "model.safetensors", {"format": "pt"})

    saved(scales=None)
    with pytest.raises(UnsupportedModel, match=rf"an MXFP4 checkpoint \(as '{STEM}_blocks'\) in model.safetensors"):
        load(folder)
    saved(scales=state[f"{STEM}_scales"][:, :-1].contiguous())
    with pytest.raises(BadCheckpoint, match=rf"found '{STEM}_blocks' .* of {STEM}_scales, not \[4, 191, 2\]"):
        load(folder)
    saved(blocks=state[f"{STEM}_blocks"][..., :8].contiguous())
    with pytest.raises(BadCheckpoint, match=rf"found '{STEM}_blocks' of shape .*, 8\]; expected blocks of 16 bytes;"):
        load(folder)
    saved(scales=torch.full_like(state[f"{STEM}_scales"], 200))
    with pytest.raises(NotFinite, match=r"a scale that is NaN or infinite in the tensor 'model.layers.1.mlp.experts.0"):
        load(folder)
