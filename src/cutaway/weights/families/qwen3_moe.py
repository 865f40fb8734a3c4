"""Qwen3 MoE (Yang et al. 2025, arXiv 2505.09388): its config as our facts, its weight names as ours.

It does not know how the values are computed. Like Qwen3, with 128 experts of which each token chooses eight.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common, experts, sliding_window
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.qwen3 import WEIGHTS as QWEN3
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("Qwen3MoeForCausalLM",)
ALIASES = {"num_experts": "num_local_experts"}
PREFIXES = ("model.", "")
EXPERTS = {
    "layers.{i}.mlp.gate.weight": "blocks.{i}.mlp.router.weight",
    "layers.{i}.mlp.experts.{j}.gate_proj.weight": "blocks.{i}.mlp.experts.{j}.up.weight[gate]",
    "layers.{i}.mlp.experts.{j}.up_proj.weight": "blocks.{i}.mlp.experts.{j}.up.weight[up]",
    "layers.{i}.mlp.experts.{j}.down_proj.weight": "blocks.{i}.mlp.experts.{j}.down.weight",
    "layers.{i}.mlp.experts.{j}.gate_up_proj": "blocks.{i}.mlp.experts.{j}.up.weight",  # of a stack of all experts
    "layers.{i}.mlp.experts.{j}.down_proj": "blocks.{i}.mlp.experts.{j}.down.weight",
}
WEIGHTS = QWEN3 | EXPERTS
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """Qwen3 MoE's config.json as a DecoderConfig; defaults are transformers' Qwen3MoeConfig's."""
    sizes = common(
        config, vocab=151936, width=2048, layers=24, heads=32, kv_heads=4, mlp=6144, positions=32768
    )  # fmt: skip
    sizes["d_mlp"] = config.size("moe_intermediate_size", 768)  # intermediate_size is of layers without experts
    config.require("decoder_sparse_step", 1, "has layers without experts")
    config.require("mlp_only_layers", [], "has layers without experts")
    window = sliding_window(config, 4096) if config.take("use_sliding_window", False) else None
    config.no_effect("sliding_window", "max_window_layers")
    bias = config.take("attention_bias", False)
    return DecoderConfig(
        **sizes,
        **experts(config, "num_local_experts", 128, 8),
        norm="rms",
        norm_eps=config.take("rms_norm_eps", 1e-6),
        qk_norm="head",
        normalized_scores=config.take("norm_topk_prob", False),
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"]),
        layer_windows=() if window is None else (window,) * sizes["n_layers"],
        qkv_bias=bias,
        out_bias=bias,
    )
