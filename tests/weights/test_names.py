"""Names and heads as people's files have them: the tensors decide, and what cannot be right is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from cutaway.ground.errors import BadCheckpoint, UnsupportedModel
from cutaway.lm import LM, load
from cutaway.text.pieces import Tokens
from tests.model_types import OPTIONS, drawn
from tests.tiny import build, saved, set_config

TWO = Tokens.from_ids([[3, 4, 6], [5, 8, 0]], [[1, 1, 1], [1, 1, 0]])
IDS = torch.tensor([[3, 5, 7, 2, 9, 4, 10, 1, 6]])
State = dict[str, Tensor]


def change(folder: Path, how: Callable[[State], State]) -> None:
    file = folder / "model.safetensors"
    save_file({name: t.clone().contiguous() for name, t in how(load_file(file)).items()}, file, {"format": "pt"})


def opened(folder: Path) -> LM:
    return load(folder, quantize=None, device="cpu")


def expected(folder: Path) -> Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(IDS).logits


PREFIXES = {
    "DataParallel": lambda n: f"module.{n}",
    "torch.compile": lambda n: f"_orig_mod.{n}",
    "both": lambda n: f"module._orig_mod.{n}",
    "a compiled layer": lambda n: n.replace("layers.1.", "layers.1._orig_mod.").replace("h.1.", "h.1._orig_mod."),
    "multimodal": lambda n: f"language_model.{n}",
    "multimodal since 4.52": lambda n: f"model.language_model.{n.removeprefix('model.')}" if "lm_head" not in n else n,
    "Lightning": lambda n: f"model.{n}",
    "another family's": lambda n: f"transformer.{n}",
    "peft around multimodal": lambda n: f"base_model.model.model.language_model.{n.removeprefix('model.')}",
    "peft": lambda n: f"base_model.model.{n}",
    "the base model": lambda n: n.removeprefix("model.").removeprefix("transformer."),
}


@pytest.mark.parametrize("name", ["opt", "gpt2", "llama-tied"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_and_wrappers_around_names(name: str, prefix: str, tmp_path: Path):
    folder, theirs = saved(name, tmp_path)
    change(folder, lambda state: {PREFIXES[prefix](n): t for n, t in state.items()})
    with torch.no_grad():
        assert (opened(folder).logits(IDS) - theirs(IDS).logits).abs().max() < 1e-4


@pytest.mark.parametrize("model_type", OPTIONS)
def test_each_type_under_every_prefix(model_type: str, tmp_path: Path):
    theirs = build(drawn(model_type, 0), scale=0.15)
    theirs.save_pretrained(tmp_path)
    bare = {"the base model": lambda n: n.removeprefix(f"{theirs.base_model_prefix}.")}
    state = load_file(tmp_path / "model.safetensors")
    with torch.no_grad():
        logits = theirs(IDS).logits
    for prefix, named in (PREFIXES | bare).items():
        change(tmp_path, lambda _, named=named: {named(n): t for n, t in state.items()})
        assert (opened(tmp_path).logits(IDS) - logits).abs().max() < 1e-4, prefix


# What the published files hold beside, or by another name than transformers writes today.
PUBLISHED: dict[str, Callable[[State], State]] = {
    "gpt_neox": lambda state: (
        {n.replace("lm_head", "embed_out"): t for n, t in state.items()}
        | {
            "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8),
            "gpt_neox.layers.0.attention.masked_bias": torch.ones(1),
        }
        | {"gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(1)}
    ),
    "gptj": lambda state: (
        state | {"transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8), "transformer.h.0.attn.masked_bias": torch.ones(1)}
    ),
    "codegen": lambda state: state | {"transformer.h.0.attn.causal_mask": torch.ones(1, 1, 8, 8)},
    "gpt_neo": lambda state: state | {"transformer.h.0.attn.attention.bias": torch.ones(1, 1, 8, 8)},
    "gpt_bigcode": lambda state: state | {"transformer.h.0.attn.bias": torch.ones(8, 8)},
}


@pytest.mark.parametrize("model_type", PUBLISHED)
def test_names_and_buffers_of_the_published_files(model_type: str, tmp_path: Path):
    theirs = build(drawn(model_type, 0, tie_word_embeddings=False), scale=0.15)
    theirs.save_pretrained(tmp_path)
    change(tmp_path, PUBLISHED[model_type])
    with torch.no_grad():
        assert (opened(tmp_path).logits(IDS) - theirs(IDS).logits).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["opt", "gpt2", "llama-tied"])
def test_buffers_of_older_savers_carry_nothing(name: str, tmp_path: Path):
    folder, theirs = saved(name, tmp_path)
    buffers = {
        "opt": ["model.decoder.version", "model.decoder.embed_positions.position_ids"],
        "gpt2": [f"transformer.h.{i}.attn.{b}" for i in range(3) for b in ("bias", "masked_bias")],
        "llama-tied": [f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(3)],
    }
    change(folder, lambda state: state | {n: torch.ones(4) for n in buffers[name]})
    with torch.no_grad():
        assert (opened(folder).logits(IDS) - theirs(IDS).logits).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["opt", "opt-350m-like", "gpt2", "llama-tied"])
def test_tied_by_its_config_but_the_file_has_a_head_of_its_own(name: str, tmp_path: Path):
    folder, theirs = saved(name, tmp_path)
    random = torch.randn(theirs.get_output_embeddings().weight.shape) * 0.3
    change(folder, lambda state: state | {"lm_head.weight": random})
    lm = opened(folder)
    assert (lm.logits(IDS) - expected(folder)).abs().max() < 1e-4
    assert any("config.json ties the head" in note for note in lm.checkpoint.notes)
    assert not lm.config.tied_head and lm.check(TWO).passed
    in_8_bits = load(folder, device="cpu")
    assert in_8_bits.check(TWO).passed
    lm.decoder.unembed.head.weight = lm.decoder.embed.token.weight  # what the flag says, and the file does not
    failed = [line.where for line in lm.check(TWO).lines if not line.passed]
    assert "lm_head.weight" in failed


@pytest.mark.parametrize("name", ["opt", "gpt2", "llama-tied"])
def test_tied_and_both_tensors_there_and_equal(name: str, tmp_path: Path):
    folder, theirs = saved(name, tmp_path)
    change(folder, lambda state: state | {"lm_head.weight": theirs.get_output_embeddings().weight.detach()})
    lm = opened(folder)
    assert lm.config.tied_head and lm.checkpoint.notes == []
    assert (lm.logits(IDS) - expected(folder)).abs().max() < 1e-4 and lm.check(TWO).passed


@pytest.mark.parametrize("name", ["opt", "gpt2", "llama-tied"])
def test_only_the_head_is_there(name: str, tmp_path: Path):
    folder, theirs = saved(name, tmp_path)
    table = next(
        n for n in load_file(folder / "model.safetensors") if n.endswith(("embed_tokens.weight", "wte.weight"))
    )
    change(folder, lambda state: {"lm_head.weight" if n == table else n: t for n, t in state.items()})
    for quantize in (None, "int8"):
        lm = load(folder, quantize=quantize, device="cpu")
        assert lm.check(TWO).passed
    with torch.no_grad():
        assert (opened(folder).logits(IDS) - theirs(IDS).logits).abs().max() < 1e-4


def test_no_head_and_a_config_that_does_not_say(tmp_path: Path):
    folder, _ = saved("llama", tmp_path)
    change(folder, lambda state: {n: t for n, t in state.items() if n != "lm_head.weight"})
    with pytest.raises(BadCheckpoint, match=r"no tensor for unembed\.head\.weight.*set \"tie_word_embeddings\": true"):
        opened(folder)  # config.json says in so many words that the head is not tied
    set_config(folder, tie_word_embeddings=...)
    lm = opened(folder)
    assert lm.config.tied_head and "the files have no other" in lm.checkpoint.notes[0]
    set_config(folder, tie_word_embeddings=True)
    assert (lm.logits(IDS) - expected(folder)).abs().max() < 1e-4


def test_a_saved_model_keeps_the_head_that_its_files_had(tmp_path: Path):
    from cutaway import quantize

    folder, theirs = saved("llama-tied", tmp_path / "model")
    random = torch.randn(theirs.get_output_embeddings().weight.shape)
    change(folder, lambda state: state | {"lm_head.weight": random})
    quantize(folder, tmp_path / "saved")
    eight_bit = load(tmp_path / "saved", device="cpu")
    assert torch.equal(eight_bit.logits(IDS), load(folder, device="cpu").logits(IDS))
    assert not eight_bit.config.tied_head and eight_bit.check(TWO).passed


def test_a_table_and_a_head_that_only_round_alike_are_two(tmp_path: Path):
    folder, _ = saved("llama-tied", tmp_path)
    table = "model.embed_tokens.weight"
    change(folder, lambda state: state | {table: state[table].half(), "lm_head.weight": state[table]})
    lm = opened(folder)
    assert not lm.config.tied_head and lm.check(TWO).passed
    assert (lm.logits(IDS) - expected(folder)).abs().max() < 1e-5


def test_the_same_weights_twice_are_refused(tmp_path: Path):
    folder, _ = saved("llama", tmp_path)
    q, k = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"
    change(folder, lambda state: {n: t for n, t in state.items() if n != k} | {q.removeprefix("model."): state[k]})
    with pytest.raises(BadCheckpoint, match=r"q_proj.weight' and '.*q_proj.weight' for the same weights"):
        opened(folder)


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path):
    folder, _ = saved("llama", tmp_path)
    name = "model.layers.1.mlp.down_proj.weight"
    change(folder, lambda state: state | {name: state[name].T.contiguous()})
    with pytest.raises(BadCheckpoint, match=rf"found '{name}' of shape \[48, 32\]; expected \[32, 48\];"):
        opened(folder)


def test_whole_numbers_are_no_weights(tmp_path: Path):
    folder, _ = saved("llama", tmp_path)
    name = "model.layers.1.mlp.down_proj.weight"
    change(folder, lambda state: state | {name: (state[name] * 127).to(torch.int8)})
    with pytest.raises(UnsupportedModel, match=f"'{name}' in int8"):
        opened(folder)
