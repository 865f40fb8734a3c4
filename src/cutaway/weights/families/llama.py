"""Llama (Touvron et al. 2023, arXiv 2302.13971) and models of its architecture: SmolLM2, Llama 2 and 3, TinyLlama.

Its config as our facts, its weight names as ours. It does not know how the values are computed.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("LlamaForCausalLM", "LLaMAForCausalLM")
PREFIXES = ("model.", "")
WEIGHTS = {
    "embed_tokens.weight": "embed.token.weight",
    "layers.{i}.input_layernorm.weight": "blocks.{i}.ln1.weight",
    "layers.{i}.self_attn.q_proj.weight": "blocks.{i}.attn.qkv.weight[q]",
    "layers.{i}.self_attn.k_proj.weight": "blocks.{i}.attn.qkv.weight[k]",
    "layers.{i}.self_attn.v_proj.weight": "blocks.{i}.attn.qkv.weight[v]",
    "layers.{i}.self_attn.q_proj.bias": "blocks.{i}.attn.qkv.bias[q]",
    "layers.{i}.self_attn.k_proj.bias": "blocks.{i}.attn.qkv.bias[k]",
    "layers.{i}.self_attn.v_proj.bias": "blocks.{i}.attn.qkv.bias[v]",
    "layers.{i}.self_attn.o_proj.weight": "blocks.{i}.attn.out.weight",
    "layers.{i}.self_attn.o_proj.bias": "blocks.{i}.attn.out.bias",
    "layers.{i}.post_attention_layernorm.weight": "blocks.{i}.ln2.weight",
    "layers.{i}.mlp.gate_proj.weight": "blocks.{i}.mlp.up.weight[gate]",
    "layers.{i}.mlp.up_proj.weight": "blocks.{i}.mlp.up.weight[up]",
    "layers.{i}.mlp.gate_proj.bias": "blocks.{i}.mlp.up.bias[gate]",
    "layers.{i}.mlp.up_proj.bias": "blocks.{i}.mlp.up.bias[up]",
    "layers.{i}.mlp.down_proj.weight": "blocks.{i}.mlp.down.weight",
    "layers.{i}.mlp.down_proj.bias": "blocks.{i}.mlp.down.bias",
    "norm.weight": "unembed.ln_final.weight",
    "lm_head.weight": "unembed.head.weight",
}
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """Llama's config.json as a DecoderConfig; defaults are transformers' LlamaConfig's."""
    sizes = common(config, vocab=32000, width=4096, layers=32, heads=32, mlp=11008, positions=2048)
    attention_bias = config.take("attention_bias", False)
    return DecoderConfig(
        **sizes,
        norm="rms",
        norm_eps=config.take("rms_norm_eps", 1e-6),
        rope=read_rope(config, sizes["d_head"], sizes["n_positions"]),
        gated=True,
        qkv_bias=attention_bias,
        out_bias=attention_bias,
        mlp_bias=config.take("mlp_bias", False),
    )
