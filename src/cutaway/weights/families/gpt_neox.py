"""GPT-NeoX (Black et al. 2022, arXiv 2204.06745) and Pythia: its config as our facts, its weight names as ours.

It does not know how the values are computed. Quirks: q, k and v of a head stand together in one matrix; attention and
MLP read the same stream, each through its own norm; a quarter of each head is rotated.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("GPTNeoXForCausalLM",)
PREFIXES = ("gpt_neox.", "")
WEIGHTS = {
    "embed_in.weight": "embed.token.weight",
    "layers.{i}.input_layernorm.weight": "blocks.{i}.ln1.weight",
    "layers.{i}.input_layernorm.bias": "blocks.{i}.ln1.bias",
    "layers.{i}.attention.query_key_value.weight": "blocks.{i}.attn.qkv.weight[q k v by group]",
    "layers.{i}.attention.query_key_value.bias": "blocks.{i}.attn.qkv.bias[q k v by group]",
    "layers.{i}.attention.dense.weight": "blocks.{i}.attn.out.weight",
    "layers.{i}.attention.dense.bias": "blocks.{i}.attn.out.bias",
    "layers.{i}.post_attention_layernorm.weight": "blocks.{i}.ln2.weight",
    "layers.{i}.post_attention_layernorm.bias": "blocks.{i}.ln2.bias",
    "layers.{i}.mlp.dense_h_to_4h.weight": "blocks.{i}.mlp.up.weight",
    "layers.{i}.mlp.dense_h_to_4h.bias": "blocks.{i}.mlp.up.bias",
    "layers.{i}.mlp.dense_4h_to_h.weight": "blocks.{i}.mlp.down.weight",
    "layers.{i}.mlp.dense_4h_to_h.bias": "blocks.{i}.mlp.down.bias",
    "final_layer_norm.weight": "unembed.ln_final.weight",
    "final_layer_norm.bias": "unembed.ln_final.bias",
    "lm_head.weight": "unembed.head.weight",
    "embed_out.weight": "unembed.head.weight",
}
UNUSED = ("layers.{i}.attention.bias",)  # the causal mask, stored by old versions


def facts(config: ConfigReader) -> DecoderConfig:
    """GPT-NeoX's config.json as a DecoderConfig; defaults are transformers' GPTNeoXConfig's."""
    config.no_effect("num_key_value_heads")  # every head has its own
    sizes = common(
        config, vocab=50432, width=6144, layers=44, heads=64, mlp=24576, positions=2048, head_dim=False,
        activation=("hidden_act", "gelu"),
    )  # fmt: skip
    bias = config.take("attention_bias", True)
    rope = read_rope(
        config, sizes["d_head"], sizes["n_positions"], partial=0.25, names=("rotary_emb_base", "rotary_pct")
    )  # fmt: skip
    return DecoderConfig(
        **sizes,
        norm="layer",
        norm_eps=config.take("layer_norm_eps", 1e-5),
        parallel=config.take("use_parallel_residual", True),
        rope=rope,
        qkv_bias=bias,
        out_bias=bias,
    )
