"""config.json as the world writes it: what the modeling code reads is computed or refused, the rest changes nothing."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, masking_utils
from transformers.models.auto.configuration_auto import model_type_to_module_name

from cutaway.ground.errors import BadCheckpoint, UnsupportedModel
from cutaway.lm import load
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families import facts_from, facts_of, supported
from tests.model_types import drawn, longrope
from tests.tiny import saved, set_config

IDS = torch.tensor([[3, 5, 7, 2, 9, 4, 10, 1, 6]])
# Read by transformers only to wire its own classes, outputs and losses.
MACHINERY = {
    "_attn_implementation", "num_labels", "problem_type", "initializer_range", "classifier_dropout", "hidden_dropout",
    "use_cache", "dtype", "pad_token_id", "output_attentions", "output_hidden_states", "return_dict",
    "get_text_config",
}  # fmt: skip
MULTIMODAL = re.compile("MultiModal|ForConditionalGeneration|ForSequenceClassification|Gemma3Model$|vision")


def reads(model_type: str) -> set[str]:
    """Every `config.NAME` and `getattr(config, "NAME")` in transformers' modeling file and in the functions that it
    imports from masking_utils, attribute_map undone."""
    folder = model_type_to_module_name(model_type)
    module = import_module(f"transformers.models.{folder}.modeling_{folder}")
    config_class = import_module(f"transformers.models.{folder}.configuration_{folder}")
    names: set[str] = set()
    parts = [part for part in ast.parse(inspect.getsource(module)).body if not MULTIMODAL.search(_name(part))]
    parts += [part for part in ast.parse(inspect.getsource(masking_utils)).body if _name(part) in vars(module)]
    for node in (node for part in parts for node in ast.walk(part)):
        owner = node.value if isinstance(node, ast.Attribute) else None
        if isinstance(node, ast.Attribute) and _is_config(owner):
            names.add(node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            names |= {a.value for a in node.args[1:2] if isinstance(a, ast.Constant) and _is_config(node.args[0])}
    own = next(c for c in vars(config_class).values() if getattr(c, "model_type", None) == model_type)
    renamed = own.attribute_map
    return {renamed.get(name, name) for name in names}


def _name(part: ast.stmt) -> str:
    return getattr(part, "name", "")


def _is_config(node: Any) -> bool:
    return (isinstance(node, ast.Name) and node.id == "config") or (
        isinstance(node, ast.Attribute) and node.attr == "config"
    )


@pytest.mark.parametrize("model_type", supported())
def test_every_attribute_that_transformers_reads_is_computed_or_refused(model_type: str):
    reader = ConfigReader({}, model_type)
    facts_from(reader)
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


LOCAL = {"layer_types": ["sliding_attention", "full_attention"]}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0]}
REFUSED: dict[str, list[tuple[dict[str, Any], str]]] = {
    "gpt2": [
        ({"add_cross_attention": True}, "half of an encoder-decoder"),
        ({"activation_function": "mish"}, "activation_function='mish'"),
        ({"n_layer": 0}, "found n_layer=0 in config.json; expected at least 1;"),
        ({"n_layer": None}, "found n_layer=null in config.json; expected a number such as 12;"),
        ({"n_head": 5}, "for 5 heads in config.json; expected a width that the heads divide;"),
    ],
    "llama": [
        ({"num_key_value_heads": 3}, "4 heads for 3 key/value heads in config.json; expected a number that these"),
        ({"rope_scaling": {"type": "mrope", "factor": 2.0}}, "rope_type='mrope'"),
        (
            {"rope_scaling": LONGROPE},
            "with 2 numbers as long_factor in config.json; expected 4 numbers",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "attn_factor": 0.7}}, "attn_factor=0.7"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0, "rope_theta": 1}},
            "rope_theta=1 with rope_type='yarn' in config.json; expected a base above 1;",
        ),
        ({"architectures": ["LlamaForSequenceClassification"]}, "another head than a language model's"),
    ],
    "mistral": [({"num_key_value_heads": 3}, "4 heads for 3 key/value heads")],
    "qwen2": [
        (LOCAL, "layer_types of 2 layers"),
        ({"layer_types": ["chunked_attention"] * 3}, "layer_types with 'chunked_attention'"),
        ({"layer_types": ["sliding_attention"] * 3, "use_sliding_window": False}, "without use_sliding_window=true"),
        ({"layer_types": ["sliding_attention"] * 3, "use_sliding_window": ...}, "without use_sliding_window=true"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta=0 in config.json; expected a number above 0"),
        ({"rope_parameters": {"rope_type": ["yarn"]}}, "rope_type=['yarn'] in config.json; expected a value like"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan in config.json; expected a value like"),
    ],
    "gpt_neox": [
        ({"head_dim": 16}, "head_dim=16 in config.json, which is another width"),
        ({"rotary_pct": 0.4, "rope_parameters": {}}, "3 of a head's 8 components rotated"),
    ],
    "gemma": [({"use_bidirectional_attention": True}, "lets a token attend to later ones")],
    "gemma2": [
        ({"use_bidirectional_attention": True}, "lets a token attend to later ones"),
        ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar=0 in config.json; expected a number above 0"),
        ({"query_pre_attn_scalar": -1}, "query_pre_attn_scalar=-1"),
        ({"attn_logit_softcapping": 0.0}, "attn_logit_softcapping=0.0"),
    ],
    "smollm3": [
        ({"no_rope_layers": [1, 0]}, "no_rope_layers=[1, 0] of 2 layers"),
        ({"no_rope_layers": ["1", "0", "1"]}, "expected 0 or 1 for each of 3;"),
    ],
    "granite": [({"logits_scaling": 0}, "logits_scaling=0 in config.json; expected a number above 0")],
    "olmo": [({"clip_qkv": -1}, "clip_qkv=-1 in config.json; expected a number above 0")],
    "gemma3_text": [
        ({"rope_parameters": {"full_attention": "x"}}, "expected a dictionary for each of full_attention and sliding"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 8.0}}, "expected a dictionary for each of"),
        ({"final_logit_softcapping": 0.0}, "final_logit_softcapping=0.0"),
    ],
    "olmo3": [({"rope_parameters": {"rope_type": "yarn", "factor": 8.0}}, "expected a dictionary for each of")],
    "phi3": [
        ({"rope_scaling": longrope(4), "original_max_position_embeddings": 1}, "at least 2"),
        ({"rope_scaling": longrope(4, short_factor=[0.0] * 4)}, "4 numbers as short_factor, 0 of them above 0"),
        ({"rope_scaling": longrope(4, long_factor=[True, 1.0, 2, 3.0])}, "4 numbers as long_factor, 3 of them"),
    ],
    "exaone4": [
        ({"sliding_window_pattern": "LLXG", "layer_types": None}, "sliding_window_pattern='LLXG'"),
        ({"sliding_window_pattern": "", "layer_types": None}, "sliding_window_pattern=''"),
    ],
    "bloom": [({"apply_residual_connection_post_layernorm": True}, "adds to the normed stream")],
    "falcon": [
        ({"new_decoder_architecture": True, "parallel_attn": False}, "parallel_attn=False"),
        ({"new_decoder_architecture": True, "num_kv_heads": 3}, "4 heads for 3 key/value heads"),
        ({"new_decoder_architecture": False, "num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn=2"),
        ({"new_decoder_architecture": False, "multi_query": False, "num_kv_heads": 2}, "num_kv_heads=2 for 4 heads"),
    ],
    "mpt": [
        ({"expansion_ratio": 2}, "expansion_ratio=2"),
        ({"no_bias": False}, "no_bias=False in config.json, which adds biases"),
        ({"logit_scale": "inv_sqrt_d_model"}, "which scales the logits"),
        ({"attn_config": {"alibi": False}}, "leaves positions to a table"),
        ({"attn_config": {"alibi_bias_max": 16}}, "gives the heads other slopes"),
        ({"attn_config": {"attn_type": "multiquery_attention"}}, "shares keys and values"),
        ({"attn_config": {"prefix_lm": True}}, "attend to later ones"),
        ({"attn_config": {"qk_ln": True}}, "norms q and k"),
        ({"attn_config": {"rope": True, "alibi": True}}, "rope=True in config.json, which rotates q and k"),
        ({"attn_config": {"kv_n_heads": 2}}, "kv_n_heads=2 in config.json, which shares keys and values"),
        ({"attn_config": {"qk_gn": True}}, "qk_gn=True in config.json, which norms q and k; expected qk_gn=False;"),
        ({"attn_config": {"sliding_window_size": 8}}, "gives attention a window; expected sliding_window_size=-1;"),
        ({"attn_config": {"attn_logit_softcapping": 30.0}}, "caps the scores; expected attn_logit_softcapping=None;"),
    ],
    "gptj": [({"rotary_dim": 16}, "rotary_dim=16 in config.json; expected an even number up to 8")],
    "codegen": [({"n_head": 2}, "n_head=2")],
    "gpt_neo": [
        ({"attention_types": [[["global"], 2]]}, "attention_types of 2 layers"),
        ({"attention_types": ["global"]}, "attention_types=['global'] in config.json; expected such as"),
        ({"attention_types": [[["global"], "3"]]}, "expected such as"),
    ],
    "gpt_bigcode": [({"add_cross_attention": True}, "half of an encoder-decoder")],
}


@pytest.mark.parametrize(("name", "keys", "says"), [(n, k, s) for n, rows in REFUSED.items() for k, s in rows])
def test_values_that_are_not_computed_are_refused_by_name(name: str, keys: dict[str, Any], says: str):
    config = drawn(name, 0).to_dict() | {"rope_parameters": None} | keys
    config = {name: value for name, value in config.items() if value is not ...}
    with pytest.raises((UnsupportedModel, BadCheckpoint)) as refusal:
        facts_of(config, lambda line: None)
    assert says in str(refusal.value)


@pytest.mark.parametrize("name", supported())
def test_a_token_that_attends_to_later_ones_is_refused(name: str):
    config = drawn(name, 0).to_dict()
    facts_of(config | {"is_causal": True}, lambda line: None)
    with pytest.raises(UnsupportedModel, match=r"is_causal=False in config.json, which lets a token attend to later"):
        facts_of(config | {"is_causal": False}, lambda line: None)


def test_what_mpts_attention_does_not_read_is_noted():
    notes: list[str] = []
    config = drawn("mpt", 0).to_dict() | {"attn_config": {"rope_theta": 500, "kv_n_heads": 4, "attn_impl": "flash"}}
    facts_of(config, notes.append)
    assert any("also says rope_theta=500, which" in note for note in notes) and "attn_impl" not in str(notes)


def test_a_pattern_of_letters_says_each_layer_in_turn():
    config = drawn("exaone4", 0, num_hidden_layers=5).to_dict() | {"layer_types": None, "sliding_window": 3}
    windows = [facts_of(config | {"sliding_window_pattern": pattern}, lambda line: None)[1].layer_windows
               for pattern in ("LGLL", "LLG", 3)]  # fmt: skip
    assert windows == [(3, None, 3, 3, 3), (3, 3, None, 3, 3), (3, 3, None, 3, 3)]


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


@pytest.mark.parametrize(("text", "found"), [("{", r"is no JSON \(.*\)"), ("[1]", "holds no JSON object")])
def test_a_config_that_is_no_object_is_refused(text: str, found: str, tmp_path: Path):
    folder, _ = saved("gpt2", tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(BadCheckpoint, match=f"found config.json that {found}; expected a JSON object; fetch it again"):
        load(folder)


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
