"""A LoRA adapter is its base with the matrices merged by hand, in every precision; the rest is refused by name."""

import json
import pickle
import shutil
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import cutaway
from cutaway.ground.errors import BadArgument, BadCheckpoint, CutawayError, ModelNotFound, UnsupportedModel
from cutaway.weights.files.lora import open_adapter
from cutaway.weights.opening import described
from tests.model_types import OPTIONS, drawn
from tests.tiny import build, llama, save_tokenizer, saved, set_config

from .gguf_files import llama_file
from .test_names import TWO

IDS = torch.tensor([[3, 5, 7, 2, 9, 4, 10, 1, 6]])
PUBLISHED = Path(__file__).parents[2].parent / "shared" / "published" / "lora"
TARGETS = {
    "llama": ["self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
    "gpt2": ["attn.c_attn", "mlp.c_fc", "mlp.c_proj"],
    "opt": ["self_attn.k_proj", "self_attn.out_proj", "fc1", "fc2"],
}
LAYERS = {"llama": "model.layers.{}.", "gpt2": "transformer.h.{}.", "opt": "model.decoder.layers.{}."}
CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 6, "bias": "none"}
State = dict[str, Tensor]


def put(folder: Path, base: Path | str | None, tensors: State, file: str = "adapter_model.safetensors", **more: Any):
    folder.mkdir(exist_ok=True)
    config = CONFIG | {"base_model_name_or_path": None if base is None else str(base)} | more
    (folder / "adapter_config.json").write_text(json.dumps(config))
    named = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, folder / file) if file.endswith("safetensors") else torch.save(named, folder / file)
    return folder


def pairs(state: State, name: str, rank: int = 2, seed: int = 0) -> State:
    """lora_A and lora_B of every target of a family, as peft names and shapes them."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for i in range(3):
        for target in TARGETS[name]:
            layer = LAYERS[name].format(i) + target
            shape = state[f"{layer}.weight"].shape
            n, k = shape if name != "gpt2" else shape[::-1]  # Conv1D has [inputs, outputs]
            found[f"{layer}.lora_A.weight"] = torch.randn(rank, k, generator=generator) * 0.2
            found[f"{layer}.lora_B.weight"] = torch.randn(n, rank, generator=generator) * 0.2
    return found


def by_hand(state: State, tensors: State, scale: Callable[[str], float] = lambda layer: 3.0) -> State:
    """The base's weights with scale · B @ A added, transposed where they are stored so."""
    merged = dict(state)
    for name in [name for name in tensors if name.endswith("lora_A.weight")]:
        layer = name.removesuffix(".lora_A.weight")
        delta = scale(layer) * tensors[f"{layer}.lora_B.weight"] @ tensors[name]
        merged[f"{layer}.weight"] = merged[f"{layer}.weight"] + (delta.T if ".c_" in layer else delta)
    return merged


def base(name: str, folder: Path) -> tuple[Path, State]:
    path, _ = saved(name, folder / "base")
    return path, load_file(path / "model.safetensors")


def merged_folder(path: Path, state: State, **over: Any) -> Path:
    """The base's folder again, with other weights."""
    out = path.with_name("merged")
    shutil.copytree(path, out)
    save_file(state, out / "model.safetensors", {"format": "pt"})
    set_config(out, **over)
    return out


def same(folder: Path, expected: Path) -> None:
    for mode in (None, "int8"):
        ours, theirs = (cutaway.load(path, quantize=mode, device="cpu") for path in (folder, expected))
        torch.testing.assert_close(ours.logits(IDS), theirs.logits(IDS), rtol=1e-5, atol=2e-5 if mode is None else 1e-3)


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("name", TARGETS)
def test_an_adapter_is_its_base_with_the_matrices_merged_by_hand(name: str, file: str, tmp_path: Path) -> None:
    path, state = base(name, tmp_path)
    tensors = pairs(state, name)
    folder = put(tmp_path / "lora", path, tensors, file)
    same(folder, merged_folder(path, by_hand(state, tensors)))
    lm = cutaway.load(folder, quantize=None, device="cpu")
    said = f"the LoRA adapter in {folder} is merged into {path}: {3 * len(TARGETS[name])} matrices of rank 2"
    assert lm.notes == [said] and lm.name == str(folder) and lm.check(TWO).passed
    assert torch.equal(pickle.loads(pickle.dumps(lm)).logits(IDS), lm.logits(IDS))
    assert cutaway.load(folder, device="cpu").check(TWO).passed


@pytest.mark.parametrize("model_type", OPTIONS)
def test_an_adapter_of_every_matrix_of_each_type(model_type: str, tmp_path: Path) -> None:
    theirs = build(drawn(model_type, 0), scale=0.15)
    theirs.save_pretrained(tmp_path / "base")
    tensors: State = {}
    for name, module in theirs.base_model.named_modules(prefix=theirs.base_model_prefix):
        transposed = type(module).__name__ == "Conv1D"
        if transposed or isinstance(module, nn.Linear):
            weight: Any = module.weight
            n, k = weight.shape[::-1] if transposed else weight.shape
            a, b = torch.randn(2, k) * 0.1, torch.randn(n, 2) * 0.1
            tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
            weight.data += 3.0 * (a.T @ b.T if transposed else b @ a)
    lm = cutaway.load(put(tmp_path / "lora", tmp_path / "base", tensors), quantize=None, device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(lm.logits(IDS), theirs(IDS).logits, rtol=1e-4, atol=1e-4)
    assert f": {len(tensors) // 2} matrices of rank 2" in " ".join(lm.notes) and len(tensors) >= 2 * 3 * 4


SCALES: dict[str, tuple[dict[str, Any], Callable[[str], float]]] = {
    "rslora": ({"use_rslora": True}, lambda layer: 6 / sqrt(2)),
    "alpha of one layer": ({"alpha_pattern": {"layers.1.self_attn.q_proj": 1}}, lambda layer: 0.5 if "1.self_attn.q"
                           in layer else 3.0),
    "alpha of a kind, by a pattern": ({"alpha_pattern": {r".*\.mlp\..*": 8, "up_proj": 1}}, lambda layer: 4.0 if "mlp"
                                      in layer else 3.0),
    "what peft ignores": ({"fan_in_fan_out": True, "layers_to_transform": [0], "target_modules": ["q_proj"],
                           "lora_dropout": 0.1, "qalora_group_size": 16, "peft_version": "0.21.2"}, lambda layer: 3.0),
}  # fmt: skip


@pytest.mark.parametrize("kind", SCALES)
def test_settings_that_scale_are_obeyed_and_those_of_training_are_not(kind: str, tmp_path: Path) -> None:
    over, scale = SCALES[kind]
    path, state = base("llama", tmp_path)
    tensors = pairs(state, "llama")
    same(put(tmp_path / "lora", path, tensors, **over), merged_folder(path, by_hand(state, tensors, scale)))


def test_a_rank_of_its_own_for_some_layers(tmp_path: Path) -> None:
    path, state = base("llama", tmp_path)
    tensors = pairs(state, "llama") | {n: t for n, t in pairs(state, "llama", 3).items() if "down_proj" in n}
    folder = put(tmp_path / "lora", path, tensors, rank_pattern={"down_proj": 3})
    expected = by_hand(state, tensors, lambda layer: 6 / 3 if "down_proj" in layer else 6 / 2)
    same(folder, merged_folder(path, expected))
    assert "of rank 2 and 3" in cutaway.load(folder, device="cpu").notes[0]


@pytest.mark.parametrize("end", ["table", "head"])
def test_of_a_tied_model_the_end_that_the_adapter_leaves_alone_stays(end: str, tmp_path: Path) -> None:
    path, state = base("llama-tied", tmp_path)
    table, (a, b) = state["model.embed_tokens.weight"], (torch.randn(2, 11), torch.randn(32, 2))
    names = [f"model.embed_tokens.lora_embedding_{side}" for side in "AB"]  # and, as peft saves them, the base's table
    other = [f"lm_head.lora_{side}.weight" for side in "AB"]
    tensors = dict(zip(names, (a, b), strict=True)) if end == "table" else dict(zip(other, (b.T, a.T), strict=True))
    tensors[f"{'model.embed_tokens' if end == 'table' else 'lm_head'}.base_layer.weight"] = table
    changed = table + 3.0 * (b @ a).T
    ends = (changed, table) if end == "table" else (table, changed)
    whole = state | dict(zip(("model.embed_tokens.weight", "lm_head.weight"), ends, strict=True))
    folder = put(tmp_path / "lora", path, tensors)
    same(folder, merged_folder(path, whole, tie_word_embeddings=False))
    assert any("config.json ties the head" in note for note in cutaway.load(folder, device="cpu").notes)


def test_whole_modules_and_biases_replace_the_bases_and_an_embedding_may_grow(tmp_path: Path) -> None:
    path, state = base("opt", tmp_path)
    table = torch.randn(13, 24)
    bias = "model.decoder.layers.1.fc1.bias"
    whole = {"model.decoder.embed_tokens.weight": table, "lm_head.weight": table.clone(), bias: torch.randn(40)}
    saved_as = {
        "model.decoder.embed_tokens.modules_to_save.weight": table,
        "lm_head.weight": table.clone(),
        "model.decoder.layers.1.fc1.base_layer.bias": whole[bias],
    }
    tensors = pairs(state, "opt")
    folder = put(tmp_path / "lora", path, tensors | saved_as, modules_to_save=["embed_tokens"], bias="lora_only")
    same(folder, merged_folder(path, by_hand(state, tensors) | whole, vocab_size=13))
    lm = cutaway.load(folder, device="cpu")
    assert lm.config.vocab_size == 13 and lm.config.tied_head
    assert "the adapter brings an embedding of 13 rows, where its base has 11" in lm.notes


@pytest.mark.parametrize("name", TARGETS)
def test_switched_on_and_off_it_equals_the_merged_model(name: str, tmp_path: Path) -> None:
    path, state = base(name, tmp_path)
    tensors = pairs(state, name)
    folder = put(tmp_path / "lora", path, tensors)
    lm, merged = (cutaway.load(each, quantize=None, device="cpu") for each in (path, folder))
    before = lm.logits(IDS)
    with lm.edited(lm.adapter(folder)):
        torch.testing.assert_close(lm.logits(IDS), merged.logits(IDS), rtol=1e-5, atol=1e-5)
    assert torch.equal(lm.logits(IDS), before)
    in_8_bits = cutaway.load(path, device="cpu")
    with in_8_bits.edited(in_8_bits.adapter(folder)):
        assert (in_8_bits.logits(IDS) - before).abs().max() > 0.01


def test_a_replaced_head_is_an_edit_and_another_weight_is_refused_as_one(tmp_path: Path) -> None:
    path, _ = base("llama", tmp_path)
    head, gain = torch.randn(11, 32), torch.randn(32)
    lm = cutaway.load(path, quantize=None, device="cpu")
    changes = lm.adapter(put(tmp_path / "head", None, {"lm_head.weight": head}, modules_to_save=["lm_head"]))
    assert changes.keys() == {"W_U"} and torch.equal(changes["W_U"], head)
    folder = put(tmp_path / "norm", path, {"model.norm.weight": gain}, modules_to_save=["norm"])
    with pytest.raises(UnsupportedModel, match=r"'model.norm.weight' of the adapter .* no matrix .*merge it: cutaway"):
        lm.adapter(folder)
    assert torch.equal(cutaway.load(folder, quantize=None, device="cpu").weights["ln_final.w"], gain)
    folder = put(tmp_path / "other", path, {"model.decoder.x.weight": torch.ones(2)})
    with pytest.raises(BadCheckpoint, match=r"found 'model.decoder.x.weight' in the adapter in .*; expected only"):
        lm.adapter(folder)


def test_saved_in_8_bits_with_the_tokenizer_that_the_adapter_brings(tmp_path: Path) -> None:
    build(llama(vocab_size=300, eos_token_id=0)).save_pretrained(tmp_path / "base")
    state = load_file(tmp_path / "base" / "model.safetensors")
    folder = put(tmp_path / "lora", tmp_path / "base", pairs(state, "llama"))
    with pytest.raises(CutawayError, match=r"no tokenizer in .*base"):
        _ = cutaway.load(folder, device="cpu").tokenizer
    save_tokenizer(folder)
    lm = cutaway.load(folder, device="cpu")
    assert lm.tokenizer.decode(lm.tokenize("the cat").ids[0]) == "the cat"
    cutaway.quantize(folder, tmp_path / "out")
    again = cutaway.load(tmp_path / "out", device="cpu")
    assert torch.equal(again.logits("the cat"), lm.logits("the cat")) and again.notes == lm.notes
    files = json.loads((tmp_path / "out" / "quantized.json").read_text())["source"]["files"]
    assert files.keys() == {"model.safetensors", "adapter_model.safetensors"}
    assert not (tmp_path / "out" / "adapter_config.json").exists()


def test_transformers_is_not_compared_with_since_it_reads_the_base_alone(tmp_path: Path) -> None:
    path, state = base("llama", tmp_path)
    lm = cutaway.load(put(tmp_path / "lora", path, pairs(state, "llama")), quantize=None, device="cpu")
    with pytest.raises(BadArgument, match=r"a LoRA adapter merged into it; expected files that transformers"):
        lm.check(TWO, against="transformers")


def test_over_a_base_in_a_gguf_and_over_one_that_another_tool_quantized(tmp_path: Path) -> None:
    path, state = base("llama", tmp_path)
    tensors = pairs(state, "llama")
    codes, scales = {}, {}
    for name in [name for name in state if name.endswith("_proj.weight")]:
        scales[name.replace(".weight", ".SCB")] = state[name].abs().amax(1)
        codes[name] = (state[name] / state[name].abs().amax(1)[:, None] * 127).round().to(torch.int8)
    packed = shutil.copytree(path, tmp_path / "packed")
    save_file(state | codes | scales, packed / "model.safetensors")
    plain = state | {n: c.float() * (scales[n.replace(".weight", ".SCB")] / 127)[:, None] for n, c in codes.items()}
    same(put(tmp_path / "lora", packed, tensors), merged_folder(path, by_hand(plain, tensors)))
    llama_file(file := tmp_path / "m.gguf")
    lm = cutaway.load(file, quantize=None, device="cpu")
    a, b = torch.randn(2, lm.config.d_model), torch.randn(lm.config.n_heads * lm.config.d_head, 2)
    folder = put(tmp_path / "on-gguf", file, {f"{Q}.lora_A.weight": a, f"{Q}.lora_B.weight": b})
    expected = lm.weights["blocks.0.W_Q"] + 3.0 * b @ a
    torch.testing.assert_close(cutaway.load(folder, quantize=None, device="cpu").weights["blocks.0.W_Q"], expected)


def test_its_shapes_are_those_of_its_base(tmp_path: Path) -> None:
    path, state = base("llama", tmp_path)
    folder = put(tmp_path / "lora", path, pairs(state, "llama"))
    checkpoint, name = described(folder)
    assert checkpoint.path == path and name == str(folder)
    assert checkpoint.notes == [f"{folder} holds a LoRA adapter: shapes are those of its base"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"use_dora": True}, r"use_dora=True in adapter_config.json in .*, which is not computed"),
    "bias": ({"lora_bias": True}, r"lora_bias=True in adapter_config.json"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, r"init_lora_weights='pissa_niter_4'.*expected init_"),
    "olora": ({"init_lora_weights": "olora"}, r"init_lora_weights='olora'"),
    "ia3": ({"peft_type": "IA3"}, r"peft_type='IA3' .*expected peft_type='LORA'"),
    "classifier": ({"task_type": "SEQ_CLS"}, r"task_type='SEQ_CLS' .*expected task_type='CAUSAL_LM'"),
    "replicated": ({"layer_replication": [[0, 2], [1, 3]]}, r"layer_replication=\[\[0, 2\], \[1, 3\]\]"),
    "activated": ({"alora_invocation_tokens": [3]}, r"alora_invocation_tokens=\[3\]"),
    "experts": ({"target_parameters": ["mlp.experts.down_proj"]}, r"target_parameters=\['mlp.experts.down_proj'\]"),
    "tokens": ({"trainable_token_indices": [1]}, r"trainable_token_indices=\[1\]"),
    "tied": ({"ensure_weight_tying": True}, r"ensure_weight_tying=True"),
    "unknown": ({"use_next_years_lora": True}, r"use_next_years_lora=True .* expected an adapter without"),
    "rank": ({"r": 4}, r"lora_A of shape \[2, 48\] and lora_B of shape .* expected rank 4 of both"),
    "no alpha": ({"lora_alpha": "x"}, r"expected rank 2 of both and a number as alpha \(x\)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_computed_is_refused_by_name_and_value(kind: str, tmp_path: Path) -> None:
    over, said = REFUSED[kind]
    path, state = base("llama", tmp_path)
    with pytest.raises((UnsupportedModel, BadCheckpoint), match=said) as caught:
        cutaway.load(put(tmp_path / "lora", path, pairs(state, "llama"), **over))
    assert "\n" not in str(caught.value)


Q = "model.layers.0.self_attn.q_proj"
TENSORS: dict[str, tuple[State, str]] = {
    "half": ({f"{Q}.lora_A.weight": torch.ones(2, 32)}, rf"only lora_A for {Q} in adapter_model.safetensors"),
    "width": ({f"{Q}.lora_A.weight": torch.ones(2, 30), f"{Q}.lora_B.weight": torch.ones(32, 2)},
              rf"an update of shape \[32, 30\] for '{Q}.weight' in .*expected \[32, 32\], as in its base"),
    "other": ({"model.decoder.x.weight": torch.ones(2)}, r"'model.decoder.x.weight' in the adapter in .*expected only"),
    "magnitude": ({f"{Q}.lora_magnitude_vector": torch.ones(32)}, r"q_proj.lora_magnitude_vector' in the adapter"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_do_not_belong_to_the_base_are_named(kind: str, tmp_path: Path) -> None:
    path, _ = base("llama", tmp_path)
    tensors, said = TENSORS[kind]
    with pytest.raises(BadCheckpoint, match=said):
        cutaway.load(put(tmp_path / "lora", path, tensors))


@pytest.mark.usefixtures("no_network")
def test_a_base_that_is_not_found_says_whose_it_is_and_how_to_go_on(tmp_path: Path) -> None:
    folder = put(tmp_path / "lora", None, {})
    apart = r"or load the base, and pass lm.adapter\(FOLDER\) to lm.edited"
    with pytest.raises(
        ModelNotFound, match=rf"found an adapter in {folder} whose adapter_config.json names no base.*{apart}"
    ):
        cutaway.load(folder)
    put(folder, "/nowhere/base", {})
    said = rf"an adapter in {folder} without its base: the model name '/nowhere/base'.*correct base_model_name"
    with pytest.raises(ModelNotFound, match=said):
        cutaway.load(folder)
    path, _ = base("gpt2", tmp_path)
    cutaway.quantize(path, tmp_path / "eight")
    put(folder, tmp_path / "eight", {})
    with pytest.raises(UnsupportedModel, match=r"whose base .*eight is 8 bits; expected a base in full precision"):
        cutaway.load(folder)
    put(folder, folder, {})
    with pytest.raises(UnsupportedModel, match=r"is an adapter itself"):
        cutaway.load(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(BadCheckpoint, match=r"no adapter_model.safetensors in .*fetch that file too"):
        cutaway.load(folder)
    lm = cutaway.load(path, device="cpu")
    with pytest.raises(ModelNotFound, match=r"no adapter_config.json in .*base; expected the folder of a LoRA adapter"):
        lm.adapter(path)


@pytest.mark.parametrize("name", ["phi-2-bunny-lora", "qwen2-7b-lora-with-embeddings", "tinyllama-lora-no-base"])
def test_published_configs_are_read(name: str, tmp_path: Path) -> None:
    config = PUBLISHED / f"{name}.json"
    if not config.is_file():
        pytest.skip("published configs are test data beside the repository, and are not there")
    said = json.loads(config.read_text())
    put(tmp_path / "lora", None, {f"{Q}.lora_{side}.weight": torch.ones((said["r"], 4)[:: 1 if side == "A" else -1])
                                  for side in "AB"})  # fmt: skip
    shutil.copy(config, tmp_path / "lora" / "adapter_config.json")
    adapter = open_adapter(tmp_path / "lora")
    assert adapter.base == said["base_model_name_or_path"]
    assert adapter.updates[Q].scale == said["lora_alpha"] / said["r"]
