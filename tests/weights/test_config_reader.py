"""config.json as the world writes it: what the modeling code reads is computed or refused, the rest changes nothing."""

import ast
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cutaway.ground.errors import BadCheckpoint, UnsupportedModel
from cutaway.lm import load
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families import facts_of, family_named, supported
from tests.tiny import CONFIGS, saved, set_config

IDS = torch.tensor([[3, 5, 7, 2, 9, 4, 10, 1, 6]])
# Read by transformers only to wire its own classes, outputs and losses.
MACHINERY = {
    "_attn_implementation", "num_labels", "problem_type", "initializer_range", "classifier_dropout", "hidden_dropout",
    "use_cache",
}  # fmt: skip


def reads(model_type: str) -> set[str]:
    """Every `config.NAME` and `getattr(config, "NAME")` in transformers' modeling file, attribute_map undone."""
    module = import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    config_class = import_module(f"transformers.models.{model_type}.configuration_{model_type}")
    names: set[str] = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        owner = node.value if isinstance(node, ast.Attribute) else None
        if isinstance(node, ast.Attribute) and _is_config(owner):
            names.add(node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            names |= {a.value for a in node.args[1:2] if isinstance(a, ast.Constant) and _is_config(node.args[0])}
    own = next(c for c in vars(config_class).values() if getattr(c, "model_type", None) == model_type)
    renamed = own.attribute_map
    return {renamed.get(name, name) for name in names}


def _is_config(node: Any) -> bool:
    return (isinstance(node, ast.Name) and node.id == "config") or (
        isinstance(node, ast.Attribute) and node.attr == "config"
    )


@pytest.mark.parametrize("model_type", supported())
def test_every_attribute_that_transformers_reads_is_computed_or_refused(model_type: str):
    reader = ConfigReader({}, model_type)
    family_named(model_type).facts(reader)
    wanted = reads(model_type)
    assert {"vocab_size"} < wanted and len(wanted) > 10
    assert wanted - MACHINERY - reader.read == set()


LET_THROUGH: list[dict[str, Any]] = [
    {"activation_dropout": 0.0},
    {"output_projection": True},
    {"unsloth_fixed": True},
    {"_attn_implementation_autoset": True},
    {"max_sequence_length": 2048},
    {"use_sliding_window": False, "sliding_window": 4096},
    {"anything": None, "nothing": [], "off": False, "zero": 0, "empty": {}, "blank": ""},
    {"rope_theta": None, "tie_word_embeddings": None, "vocab_size": 11},
    {"pruned_heads": {}, "torchscript": False, "quantization_config": None},
]


@pytest.mark.parametrize("keys", LET_THROUGH, ids=lambda keys: next(iter(keys)))
@pytest.mark.parametrize("name", ["opt", "gpt2", "llama"])
def test_keys_that_no_modeling_code_reads(name: str, keys: dict[str, Any], tmp_path: Path):
    folder, theirs = saved(name, tmp_path)
    config = set_config(folder)
    set_config(folder, **keys)
    lm = load(folder, quantize=None, device="cpu")
    with torch.no_grad():
        assert (lm.logits(IDS) - theirs(IDS).logits).abs().max() < 1e-4
    told = {k: v for k, v in keys.items() if v and not k.startswith("_") and k not in config}
    assert len(lm.notes) == bool(told)
    assert all(f"{k}={v}" in lm.notes[0] and lm.notes[0] in str(lm) for k, v in told.items())


REFUSED: dict[str, list[tuple[dict[str, Any], str]]] = {
    "gpt2": [
        ({"scale_attn_weights": False}, "scale_attn_weights=False in config.json, which leaves attention scores"),
        ({"scale_attn_by_inverse_layer_idx": True}, "divides attention scores by the layer's number"),
        ({"add_cross_attention": True}, "half of an encoder-decoder"),
        ({"activation_function": "mish"}, "activation_function='mish'"),
    ],
    "opt": [({"layer_norm_elementwise_affine": False}, "leaves norms without a gain")],
    "llama": [
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope_type='longrope'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "attn_factor": 0.7}}, "attn_factor=0.7"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "another head than a language model's"),
    ],
}


@pytest.mark.parametrize(("name", "keys", "says"), [(n, k, s) for n, rows in REFUSED.items() for k, s in rows])
def test_values_that_are_not_computed_are_refused_by_name(name: str, keys: dict[str, Any], says: str):
    config = CONFIGS[name].to_dict() | {"rope_parameters": None} | keys
    with pytest.raises(UnsupportedModel) as refusal:
        facts_of(config, lambda line: None)
    assert says in str(refusal.value)


@pytest.mark.parametrize("missing", ["factor", "low_freq_factor", "high_freq_factor"])
def test_a_rope_kind_without_its_own_numbers(missing: str):
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling = {name: value for name, value in scaling.items() if name != missing}
    with pytest.raises(BadCheckpoint, match=f"without {missing}"):
        facts_of({"model_type": "llama", "rope_scaling": scaling}, lambda line: None)


ROPES: list[dict[str, Any]] = [
    {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "finetuned": True}},
    {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "attn_factor": 1.0}},
    {"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.9}},
    {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
    {"rope_scaling": {"rope_type": "default"}, "rope_theta": 77.0},
    {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_parameters": {"rope_type": "default"}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}},
    {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 16}, "original_max_position_embeddings": 8},
]  # fmt: skip


@pytest.mark.parametrize("keys", ROPES)
def test_rotary_settings_as_published(keys: dict[str, Any], tmp_path: Path):
    folder, _ = saved("llama", tmp_path)
    set_config(folder, **{"rope_parameters": ...} | keys)
    ids = (torch.arange(40)[None] + 1) % 11
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(ids).logits
    assert (load(folder, quantize=None, device="cpu").logits(ids) - theirs).abs().max() < 1e-4


def test_the_oldest_gpt2_names_no_model_type(tmp_path: Path):
    folder, theirs = saved("gpt2", tmp_path)
    for architectures in (["GPT2LMHeadModel"], None):
        set_config(folder, model_type=..., architectures=architectures, n_ctx=32)
        lm = load(folder, quantize=None, device="cpu")
        with torch.no_grad():
            assert (lm.logits(IDS) - theirs(IDS).logits).abs().max() < 1e-4
        by = "architecture" if architectures else "attributes"
        assert lm.notes == [f"config.json names no model_type: taken as gpt2, by its {by}"]


def test_another_family_is_named_with_ours():
    for config in ({"model_type": "mamba"}, {"architectures": ["MambaForCausalLM"]}, {}):
        with pytest.raises(UnsupportedModel, match=f"expected one of {', '.join(supported())}") as refusal:
            facts_of(config, lambda line: None)
        assert config.get("model_type", "no model_type") in str(refusal.value)


def test_names_that_transformers_takes_for_others(tmp_path: Path):
    folder, theirs = saved("gpt2", tmp_path)
    set_config(folder, n_embd=..., hidden_size=24, n_layer=..., num_hidden_layers=3)
    with torch.no_grad():
        assert (load(folder, quantize=None, device="cpu").logits(IDS) - theirs(IDS).logits).abs().max() < 1e-4
