"""A GGUF in Q8_0, in mode "int8": codes and scales are the file's own, in every layer; and what is wrong is named."""

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from cutaway.ground.errors import BadCheckpoint, NotFinite
from cutaway.lm import load
from cutaway.weights.files.gguf import open_gguf
from cutaway.weights.opening import quantize
from cutaway.weights.verify import differing
from tests.tiny import build, llama
from tests.weights.gguf_files import GPT2, GPT2_NAMES, LLAMA, Tensors, add_values, as_gguf, finished, llama_tensors

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_key_value_heads": 2}
VALUES = LLAMA | {"embedding_length": 64, "feed_forward_length": 96, "rope.dimension_count": 16}
KIND = gguf.GGMLQuantizationType.Q8_0
IDS = torch.tensor([[1, 5, 7, 2, 9], [8, 3, 3, 6, 4]])


def in_q8_0(
    path: Path, architecture: str, values: dict[str, Any], tensors: Tensors, raw: Tensors | None = None
) -> Path:
    """A file whose matrices are in Q8_0, as the gguf package makes it; raw: blocks to write instead of its own."""
    writer = gguf.GGUFWriter(path, architecture)
    add_values(writer, {f"{architecture}.{key}": value for key, value in values.items()})
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and "position" not in name:
            blocks = (raw or {}).get(name)
            writer.add_tensor(name, gguf.quants.quantize(tensor, KIND) if blocks is None else blocks, raw_dtype=KIND)
        else:
            writer.add_tensor(name, tensor)
    finished(writer)
    return path


def model(tied: bool = False) -> PreTrainedModel:
    return build(llama(**SIZES, rms_norm_eps=1e-5, tie_word_embeddings=tied))


def made(path: Path, tied: bool = False, raw: Tensors | None = None) -> Path:
    return in_q8_0(path, "llama", VALUES, llama_tensors(model(tied), tied), raw)


def groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and scales that the gguf package gives a weight."""
    blocks = torch.from_numpy(gguf.quants.quantize(weight.detach().numpy(), KIND)).unflatten(1, (-1, 34))
    scale = blocks[:, :, :2].contiguous().view(torch.float16)[:, :, 0]
    return blocks[:, :, 2:].contiguous().view(torch.int8).flatten(1), scale


def layers_of(state: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    """The weights of a block as our layers hold them: q and k in transformers' order of rows."""
    names = {"attn.qkv": ("self_attn.q", "self_attn.k", "self_attn.v"), "attn.out": ("self_attn.o",),
             "mlp.up": ("mlp.gate", "mlp.up"), "mlp.down": ("mlp.down",)}  # fmt: skip
    return {
        f"blocks.{i}.{layer}": torch.cat([state[f"model.layers.{i}.{part}_proj.weight"] for part in parts])
        for layer, parts in names.items()
    }


@pytest.mark.parametrize("tied", [True, False])
def test_codes_and_scales_are_those_of_the_file(tmp_path: Path, tied: bool) -> None:
    path, state = made(tmp_path / "m.gguf", tied), model(tied).state_dict()
    lm = load(path, device="cpu")
    weights = layers_of(state, 0) | layers_of(state, 1) | {"unembed.head": state["lm_head.weight"]}
    for name, weight in weights.items():
        layer: Any = lm.decoder.get_submodule(name)
        codes, scale = groups(weight)
        assert torch.equal(layer.codes, codes) and torch.equal(layer.scale, scale), name
    codes, scale = groups(state["model.embed_tokens.weight"])
    table = codes * scale.float().repeat_interleave(32, 1)
    assert torch.equal(lm.decoder.embed.token.weight.float(), table)
    assert lm.config.tied_head == tied and not differing(lm.checkpoint, lm.decoder)


def test_rows_are_read_in_portions_that_end_within_a_head_or_a_panel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path / "m.gguf")
    whole = load(path, device="cpu")
    for at_once in (1, 64 * 4 * 5, 64 * 4 * 17):
        monkeypatch.setattr("cutaway.weights.quantizing.row_slices.__defaults__", (at_once,))
        again = load(path, device="cpu")
        for name, part in whole.decoder.state_dict().items():
            assert torch.equal(part, again.decoder.state_dict()[name]), (at_once, name)


def test_what_no_quantizer_writes_is_taken_as_it_is(tmp_path: Path) -> None:
    """Code -128, a group whose largest code is small, scales that are negative, subnormal or 0."""
    name = "blk.1.ffn_gate.weight"
    raw = gguf.quants.quantize(llama_tensors(model())[name], KIND)
    blocks = raw.reshape(-1, 34)
    blocks[3, 9] = 0x80
    blocks[5, 2:] = 3
    for row, scale in ((7, -0.5), (8, 3e-8), (9, 0.0)):
        blocks[row, :2] = np.array([scale], np.float16).view(np.uint8)
    lm = load(made(tmp_path / "m.gguf", raw={name: raw}), device="cpu")
    layer: Any = lm.decoder.get_submodule("blocks.1.mlp.up")
    theirs = torch.from_numpy(blocks.copy()).view(96, 2, 34)
    assert torch.equal(layer.scale[:96], theirs[:, :, :2].contiguous().view(torch.float16)[:, :, 0])
    assert torch.equal(layer.codes[:96], theirs[:, :, 2:].contiguous().view(torch.int8).flatten(1))
    assert layer.codes.min() == -128 and not differing(lm.checkpoint, lm.decoder)
    full = load(tmp_path / "m.gguf", quantize=None, device="cpu")
    assert torch.equal(layer.weight[:96], full.decoder.get_submodule("blocks.1.mlp.up").weight[:96])


def test_the_logits_are_those_of_the_dequantized_weights(tmp_path: Path) -> None:
    path = made(tmp_path / "m.gguf")
    full = load(path, quantize=None, device="cpu").logits(IDS)
    small = load(path, device="cpu").logits(IDS)
    assert 0 < (small - full).norm() / full.norm() < 1e-3
    out = quantize(path, tmp_path / "out")
    assert torch.equal(load(out, device="cpu").logits(IDS), small)
    old = load(path, quantize="llm-int8", device="cpu").logits(IDS)
    assert (old - full).norm() > 10 * (small - full).norm()


def test_a_gpt2_whose_matrices_are_turned_has_the_files_codes_too(tmp_path: Path) -> None:
    theirs = build(GPT2Config(vocab_size=11, n_embd=32, n_layer=2, n_head=4, n_positions=16))
    assert isinstance(theirs, GPT2LMHeadModel)
    state = {name: tensor for name, tensor in theirs.state_dict().items() if name != "lm_head.weight"}
    turned = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
    tensors = as_gguf(state, GPT2_NAMES, lambda name, t: t.T if name.endswith(turned) else t)
    lm = load(in_q8_0(tmp_path / "m.gguf", "gpt2", GPT2, tensors), device="cpu")
    for ours, name in (("attn.qkv", "attn.c_attn"), ("mlp.up", "mlp.c_fc"), ("mlp.down", "mlp.c_proj")):
        layer: Any = lm.decoder.get_submodule(f"blocks.1.{ours}")
        codes, scale = groups(state[f"transformer.h.1.{name}.weight"].T.contiguous())
        assert torch.equal(layer.codes, codes) and torch.equal(layer.scale, scale), name


def test_a_code_that_changed_is_found(tmp_path: Path) -> None:
    lm = load(made(tmp_path / "m.gguf"), device="cpu")
    panels: Any = lm.decoder.get_submodule("blocks.1.attn.qkv").panels
    panels[0, 0, 3, 5] += 1
    assert differing(lm.checkpoint, lm.decoder) == ["model.layers.1.self_attn.q_proj.weight"]


@pytest.mark.parametrize("mode", ["int8", "llm-int8"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(
    ("name", "theirs"),
    [("blk.1.ffn_up", "model.layers.1.mlp.up_proj"), ("blk.0.attn_k", "model.layers.0.self_attn.k_proj"),
     ("output", "lm_head")],
)  # fmt: skip
def test_a_scale_that_is_not_finite_is_refused_by_name(
    tmp_path: Path, mode: str, bad: float, name: str, theirs: str
) -> None:
    raw = gguf.quants.quantize(llama_tensors(model())[f"{name}.weight"], KIND)
    raw.reshape(-1, 34)[7, :2] = np.array([bad], np.float16).view(np.uint8)
    path = made(tmp_path / "m.gguf", raw={f"{name}.weight": raw})
    with pytest.raises(NotFinite, match=f"the tensor '{theirs}.weight'"):
        load(path, quantize=mode, device="cpu")


@pytest.mark.parametrize("width", [63, 65, 16])
def test_a_width_that_is_no_multiple_of_a_block_is_refused(tmp_path: Path, width: int) -> None:
    path, name = made(tmp_path / "m.gguf"), b"blk.1.ffn_up.weight"
    before = name + struct.pack("<IQ", 2, 64)
    data = path.read_bytes()
    assert data.count(before) == 1
    path.write_bytes(data.replace(before, name + struct.pack("<IQ", 2, width)))
    with pytest.raises(BadCheckpoint, match=rf"'{name.decode()}' of shape \[96, {width}\] in blocks of 32"):
        open_gguf(path)
    with pytest.raises(BadCheckpoint, match=name.decode()):
        load(path, device="cpu")


def test_a_file_that_ends_within_its_blocks_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadCheckpoint, match="ends too early"):
        load(path, device="cpu")
