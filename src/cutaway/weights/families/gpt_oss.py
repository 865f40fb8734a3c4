"""gpt-oss (OpenAI 2025, arXiv 2508.10925): its config as our facts, its weight names as ours.

It does not know how the values are computed. Quirks: each head has an attention sink; every other layer has a window;
experts have biases and a clamped SwiGLU, and gate and up stand column by column in one matrix.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common, experts, layer_types, sliding_window, windows
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.families.qwen3_moe import EXPERTS
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("GptOssForCausalLM",)
ALIASES = {"num_experts": "num_local_experts"}
PREFIXES = ("model.", "")
WEIGHTS = (
    LLAMA
    | EXPERTS
    | {
        "layers.{i}.self_attn.sinks": "blocks.{i}.attn.sinks.weight",
        "layers.{i}.mlp.router.weight": "blocks.{i}.mlp.router.weight",
        "layers.{i}.mlp.router.bias": "blocks.{i}.mlp.router.bias",
        "layers.{i}.mlp.experts.{j}.gate_proj.bias": "blocks.{i}.mlp.experts.{j}.up.bias[gate]",
        "layers.{i}.mlp.experts.{j}.up_proj.bias": "blocks.{i}.mlp.experts.{j}.up.bias[up]",
        "layers.{i}.mlp.experts.{j}.down_proj.bias": "blocks.{i}.mlp.experts.{j}.down.bias",
        "layers.{i}.mlp.experts.{j}.gate_up_proj": "blocks.{i}.mlp.experts.{j}.up.weight[gate up by unit].T",
        "layers.{i}.mlp.experts.{j}.gate_up_proj_bias": "blocks.{i}.mlp.experts.{j}.up.bias[gate up by unit]",
        "layers.{i}.mlp.experts.{j}.down_proj": "blocks.{i}.mlp.experts.{j}.down.weight.T",
        "layers.{i}.mlp.experts.{j}.down_proj_bias": "blocks.{i}.mlp.experts.{j}.down.bias",
        # of MXFP4, which stores [outputs, inputs]
        "layers.{i}.mlp.experts.{j}.gate_up_proj.weight": "blocks.{i}.mlp.experts.{j}.up.weight[gate up by unit]",
    }
)
UNUSED = ()
YARN = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}


def facts(config: ConfigReader) -> DecoderConfig:
    """gpt-oss's config.json as a DecoderConfig; defaults are transformers' GptOssConfig's."""
    sizes = common(
        config, vocab=201088, width=2880, layers=36, heads=64, kv_heads=8, head_dim=64, mlp=2880, positions=131072
    )  # fmt: skip
    sizes["activation"] = "silu"  # whatever hidden_act says: no forward pass reads it
    sizes |= experts(config, "num_local_experts", 128, 4) | {"mlp_bias": True, "router_bias": True}
    bias, types = config.take("attention_bias", True), layer_types(config, sizes["n_layers"], lambda i: i % 2 == 0)
    return DecoderConfig(
        **sizes,
        norm="rms",
        norm_eps=config.take("rms_norm_eps", 1e-5),
        normalized_scores=True,
        mlp_limit=float(config.take("swiglu_limit", 7.0, float)),
        mlp_alpha=float(config.take("swiglu_alpha", 1.702, float)),
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"], theta=150000.0, scaling=YARN),
        layer_windows=windows(config, types, sliding_window(config, 128)),
        attn_sinks=True,
        qkv_bias=bias,
        out_bias=bias,
    )
