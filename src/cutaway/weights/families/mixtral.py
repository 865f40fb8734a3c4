"""Mixtral (Jiang et al. 2024, arXiv 2401.04088): its config as our facts, its weight names as ours.

It does not know how the values are computed. Like Mistral, with eight experts of which each token chooses two.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common, experts, sliding_window
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.families.qwen3_moe import EXPERTS
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("MixtralForCausalLM",)
ALIASES = {"num_experts": "num_local_experts"}
PREFIXES = ("model.", "")
WEIGHTS = (
    LLAMA
    | EXPERTS
    | {
        "layers.{i}.block_sparse_moe.gate.weight": "blocks.{i}.mlp.router.weight",
        "layers.{i}.block_sparse_moe.experts.{j}.w1.weight": "blocks.{i}.mlp.experts.{j}.up.weight[gate]",
        "layers.{i}.block_sparse_moe.experts.{j}.w3.weight": "blocks.{i}.mlp.experts.{j}.up.weight[up]",
        "layers.{i}.block_sparse_moe.experts.{j}.w2.weight": "blocks.{i}.mlp.experts.{j}.down.weight",
    }
)
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """Mixtral's config.json as a DecoderConfig; defaults are transformers' MixtralConfig's."""
    sizes = common(
        config, vocab=32000, width=4096, layers=32, heads=32, kv_heads=8, mlp=14336, positions=131072
    )  # fmt: skip
    window = sliding_window(config, None)
    config.no_effect("router_jitter_noise")
    return DecoderConfig(
        **sizes,
        **experts(config, "num_local_experts", 8, 2),
        norm="rms",
        norm_eps=config.take("rms_norm_eps", 1e-5),
        normalized_scores=True,
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"], theta=1e6),
        layer_windows=() if window is None else (window,) * sizes["n_layers"],
        qkv_bias=False,
        out_bias=False,
    )
