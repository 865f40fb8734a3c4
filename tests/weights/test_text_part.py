"""A multimodal model's folder is its text model: transformers' logits of a text alone, and what is left out is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file
from torch import nn

import cutaway
from cutaway.ground.errors import BadCheckpoint, UnsupportedModel
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.opening import described
from cutaway.weights.text_part import TYPES
from tests.model_types import drawn
from tests.tiny import set_config

IDS = torch.tensor([[3, 5, 7, 2, 9, 4, 10, 1, 6]])
PUBLISHED = Path(__file__).parents[2].parent / "shared" / "published"
TEXT = ("language_model.", "text_model.", "lm_head.")


def multimodal(model_type: str, inner: str = "llama", **text: Any) -> nn.Module:
    """transformers' model of that type around a tiny text model; its other half is large, and never touched."""
    auto = transformers.models.auto.modeling_auto  # type: ignore[attr-defined]
    names = {**auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES, **auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}
    config = transformers.CONFIG_MAPPING[model_type](text_config=drawn(inner, 0, num_key_value_heads=2, **text))
    with init_empty_weights(include_buffers=False):
        model = getattr(transformers, names[model_type])(config)
    torch.manual_seed(0)
    for name, parameter in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        values = torch.empty(parameter.shape)
        if any(part in name for part in TEXT):
            values = torch.randn(parameter.shape) * 0.3 + (1.0 if parameter.ndim == 1 else 0.0)
        setattr(model.get_submodule(owner), leaf, nn.Parameter(values))
    model.tie_weights()
    return model.eval()


def save(model: Any, folder: Path, old_names: bool = False) -> Path:
    """Its folder, with the text half and a little of the other."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(model.config.to_json_string(use_diff=False))
    state = {n: t for n, t in model.state_dict().items() if any(part in n for part in TEXT) or t.numel() < 2000}
    if old_names:  # as published before transformers 4.52
        state = {
            n.replace("model.language_model.", "language_model.model.")
            .replace("lm_head.", "language_model.lm_head.")
            .removeprefix("model."): t
            for n, t in state.items()
        }
    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


AROUND = [(model_type, "llama") for model_type in sorted(TYPES)] + [
    ("gemma3", "gemma3_text"), ("mistral3", "mistral"), ("internvl", "qwen2"), ("llava_next", "mistral"),
    ("llava_onevision", "qwen2"), ("lighton_ocr", "qwen3"),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "inner"), AROUND)
def test_a_text_alone_gives_transformers_logits(model_type: str, inner: str, tmp_path: Path) -> None:
    model = multimodal(model_type, inner)
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
    lm = cutaway.load(save(model, tmp_path), quantize=None, device="cpu")
    assert (lm.logits(IDS) - expected).abs().max() < 1e-4
    note = next(note for note in lm.notes if note.startswith(f"{model_type}: "))
    assert note.startswith(f"{model_type}: its text model is read, without images or sound; left out: ")
    in_memory = cutaway.load(model, quantize=None, device="cpu")
    assert torch.equal(in_memory.logits(IDS), lm.logits(IDS)) and note.split("out: ")[0] in " ".join(in_memory.notes)


@pytest.mark.parametrize("old_names", [False, True])
def test_what_is_left_out_is_listed_by_module_and_the_saved_model_is_the_text_models(
    old_names: bool, tmp_path: Path
) -> None:
    folder = save(multimodal("llava"), tmp_path / "llava", old_names)
    lm = cutaway.load(folder, device="cpu")
    file = load_file(folder / "model.safetensors")
    rest = {name: tensor for name, tensor in file.items() if not any(part in name for part in TEXT)}
    towers = [sum(part in name for name in rest) for part in ("multi_modal_projector", "vision_tower")]
    said = f"left out: {towers[0]} tensors of multi_modal_projector, {towers[1]} tensors of vision_tower ("
    assert min(towers) > 0 and said in lm.notes[0]
    cutaway.quantize(folder, tmp_path / "out")
    again = cutaway.load(tmp_path / "out", device="cpu")
    assert torch.equal(again.logits(IDS), lm.logits(IDS)) and again.notes == lm.notes
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"


def test_a_head_tied_by_the_whole_models_config(tmp_path: Path) -> None:
    model = multimodal("llava", tie_word_embeddings=False)
    folder = save(model, tmp_path)
    state = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in state.items() if "lm_head" not in n}, folder / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"no tensor for unembed.head"):
        cutaway.load(folder)
    set_config(folder, tie_word_embeddings=True)
    assert cutaway.load(folder, device="cpu").config.tied_head


AROUND_OURS = {"aya_vision": "cohere2", "blip-2": "opt", "cohere2_vision": "cohere2", "fast_vlm": "qwen2",
               "granite_speech": "granite", "paligemma": "gemma", "perception_lm": "llama"}  # fmt: skip


@pytest.mark.parametrize("model_type", AROUND_OURS)
def test_a_multimodal_type_that_is_not_opened_is_named_as_one(model_type: str, tmp_path: Path) -> None:
    config, inner = transformers.CONFIG_MAPPING[model_type](), AROUND_OURS[model_type]
    (tmp_path / "config.json").write_text(config.to_json_string(use_diff=False))
    with pytest.raises(UnsupportedModel) as caught:
        open_checkpoint(tmp_path)
    assert str(caught.value) == (
        f"found model_type='{model_type}' in config.json, a multimodal model around a {inner}; expected one whose text "
        f"half runs as it does alone, of {', '.join(sorted(TYPES))}; choose one of these, or a {inner} by itself."
    )


def test_a_multimodal_model_that_is_more_than_its_text_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    set_config(tmp_path, model_type="llava_next", text_config={"model_type": "granite"})
    with pytest.raises(UnsupportedModel, match="a llava_next around a granite, whose logits it does not scale or cap"):
        open_checkpoint(tmp_path)
    capped = {"model_type": "gemma3_text", "final_logit_softcapping": 30.0}
    set_config(tmp_path, model_type="gemma3", text_config=capped)
    with pytest.raises(UnsupportedModel, match=r"a gemma3_text with final_logit_softcapping=30.0, whose logits it"):
        open_checkpoint(tmp_path)


def test_a_tensor_of_the_text_model_that_is_missing_or_unknown_is_still_named(tmp_path: Path) -> None:
    folder = save(multimodal("llava"), tmp_path)
    state = load_file(folder / "model.safetensors")
    save_file(state | {"model.language_model.layers.0.more": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"the tensor 'model.language_model.layers.0.more'"):
        cutaway.load(folder)


def test_the_published_llava_has_its_text_models_shapes(tmp_path: Path) -> None:
    config = PUBLISHED / "llama" / "llava-1.5-7b-hf.json"
    if not config.is_file():
        pytest.skip("published configs are test data beside the repository, and are not there")
    (tmp_path / "config.json").write_text(config.read_text())
    checkpoint, _ = described(tmp_path)
    facts = checkpoint.facts
    assert checkpoint.notes == ["llava: its text model alone"]
    assert (facts.n_layers, facts.d_model, facts.vocab_size, facts.n_positions) == (32, 4096, 32064, 4096)
