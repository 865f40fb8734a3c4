"""BLOOM (BigScience 2022, arXiv 2211.05100): its config as our facts, its weight names as ours.

It does not know how the values are computed. Quirks: positions only add to the scores (ALiBi), a norm follows the
embedding, and q, k and v of a head stand together in one matrix.
"""

from cutaway.ground.config import AlibiConfig, DecoderConfig
from cutaway.weights.alibi import slopes
from cutaway.weights.config_reader import ConfigReader

ARCHITECTURES = ("BloomForCausalLM",)
ALIASES = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
PREFIXES = ("transformer.", "")
WEIGHTS = {
    "word_embeddings.weight": "embed.token.weight",
    "word_embeddings_layernorm.weight": "embed.ln.weight",
    "word_embeddings_layernorm.bias": "embed.ln.bias",
    "h.{i}.input_layernorm.weight": "blocks.{i}.ln1.weight",
    "h.{i}.input_layernorm.bias": "blocks.{i}.ln1.bias",
    "h.{i}.self_attention.query_key_value.weight": "blocks.{i}.attn.qkv.weight[q k v by group]",
    "h.{i}.self_attention.query_key_value.bias": "blocks.{i}.attn.qkv.bias[q k v by group]",
    "h.{i}.self_attention.dense.weight": "blocks.{i}.attn.out.weight",
    "h.{i}.self_attention.dense.bias": "blocks.{i}.attn.out.bias",
    "h.{i}.post_attention_layernorm.weight": "blocks.{i}.ln2.weight",
    "h.{i}.post_attention_layernorm.bias": "blocks.{i}.ln2.bias",
    "h.{i}.mlp.dense_h_to_4h.weight": "blocks.{i}.mlp.up.weight",
    "h.{i}.mlp.dense_h_to_4h.bias": "blocks.{i}.mlp.up.bias",
    "h.{i}.mlp.dense_4h_to_h.weight": "blocks.{i}.mlp.down.weight",
    "h.{i}.mlp.dense_4h_to_h.bias": "blocks.{i}.mlp.down.bias",
    "ln_f.weight": "unembed.ln_final.weight",
    "ln_f.bias": "unembed.ln_final.bias",
    "lm_head.weight": "unembed.head.weight",
}
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """BLOOM's config.json as a DecoderConfig; defaults are transformers' BloomConfig's."""
    width = config.size("n_embed", config.size("hidden_size", 64), optional=True)  # the published files' name
    heads = config.size("n_head", 8)
    config.require("apply_residual_connection_post_layernorm", False, "adds to the normed stream instead of the stream")
    # how products are split among machines that trained together
    config.no_effect("pretraining_tp", "slow_but_exact", "hidden_dropout", "attention_dropout", "use_cache")
    return DecoderConfig(
        vocab_size=config.size("vocab_size", 250880),
        n_layers=config.size("n_layer", 2),
        d_model=width,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=config.head_width(width, heads),
        d_mlp=4 * width,
        n_positions=config.size("seq_length", 2048, optional=True),  # of training: ALiBi sets no end
        d_embed=width,
        norm="layer",
        norm_eps=config.take("layer_norm_epsilon", 1e-5),
        activation="gelu_tanh",
        embed_norm=True,
        alibi=AlibiConfig(slopes(heads)),
        tied_head=config.take("tie_word_embeddings", True),
    )
