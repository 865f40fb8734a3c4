"""StableLM 3B and StableLM 2 (Bellagente et al. 2024, arXiv 2402.17834): its config as our facts, its weight names as
ours.

It does not know how the values are computed. Like Llama, with LayerNorm, a quarter of each head rotated, and in the
larger one a norm for each head of q and k and parallel attention and MLP.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.llama import WEIGHTS as LLAMA
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("StableLmForCausalLM", "StableLMEpochForCausalLM")
PREFIXES = ("model.", "")
WEIGHTS = LLAMA | {
    "layers.{i}.input_layernorm.bias": "blocks.{i}.ln1.bias",
    "layers.{i}.self_attn.q_layernorm.norms.{j}.weight": "blocks.{i}.attn.q_norm.weight[head {j}]",
    "layers.{i}.self_attn.k_layernorm.norms.{j}.weight": "blocks.{i}.attn.k_norm.weight[head {j}]",
    "layers.{i}.post_attention_layernorm.bias": "blocks.{i}.ln2.bias",
    "norm.bias": "unembed.ln_final.bias",
}
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """StableLM's config.json as a DecoderConfig; defaults are transformers' StableLmConfig's."""
    sizes = common(
        config, vocab=50304, width=2560, layers=32, heads=32, kv_heads=32, mlp=6912, positions=4096, head_dim=False
    )  # fmt: skip
    parallel = config.take("use_parallel_residual", False)
    return DecoderConfig(
        **sizes,
        norm="layer",
        norm_eps=config.take("layer_norm_eps", 1e-5),
        qk_norm="heads" if config.take("qk_layernorm", False) else None,
        parallel=parallel,
        shared_norm=parallel,
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"], partial=0.25),
        gated=True,
        qkv_bias=config.take("use_qkv_bias", False),
        out_bias=False,
        mlp_bias=False,
    )
