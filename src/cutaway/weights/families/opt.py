"""OPT (Zhang et al. 2022, arXiv 2205.01068), all sizes: its config as our facts, its weight names as ours.

It does not know how the values are computed. Quirks: positions start at row 2 of their table; opt-350m alone has
its norms after the sums, projections around a narrower embedding, and no final norm.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.config_reader import ConfigReader

ARCHITECTURES = ("OPTForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = {
    "decoder.embed_tokens.weight": "embed.token.weight",
    "decoder.embed_positions.weight": "embed.position.weight",
    "decoder.project_in.weight": "embed.project_in.weight",
    "decoder.layers.{i}.self_attn_layer_norm.weight": "blocks.{i}.ln1.weight",
    "decoder.layers.{i}.self_attn_layer_norm.bias": "blocks.{i}.ln1.bias",
    "decoder.layers.{i}.self_attn.q_proj.weight": "blocks.{i}.attn.qkv.weight[q]",
    "decoder.layers.{i}.self_attn.k_proj.weight": "blocks.{i}.attn.qkv.weight[k]",
    "decoder.layers.{i}.self_attn.v_proj.weight": "blocks.{i}.attn.qkv.weight[v]",
    "decoder.layers.{i}.self_attn.q_proj.bias": "blocks.{i}.attn.qkv.bias[q]",
    "decoder.layers.{i}.self_attn.k_proj.bias": "blocks.{i}.attn.qkv.bias[k]",
    "decoder.layers.{i}.self_attn.v_proj.bias": "blocks.{i}.attn.qkv.bias[v]",
    "decoder.layers.{i}.self_attn.out_proj.weight": "blocks.{i}.attn.out.weight",
    "decoder.layers.{i}.self_attn.out_proj.bias": "blocks.{i}.attn.out.bias",
    # In a layer this is the MLP's norm, not the model's final norm.
    "decoder.layers.{i}.final_layer_norm.weight": "blocks.{i}.ln2.weight",
    "decoder.layers.{i}.final_layer_norm.bias": "blocks.{i}.ln2.bias",
    "decoder.layers.{i}.fc1.weight": "blocks.{i}.mlp.up.weight",
    "decoder.layers.{i}.fc1.bias": "blocks.{i}.mlp.up.bias",
    "decoder.layers.{i}.fc2.weight": "blocks.{i}.mlp.down.weight",
    "decoder.layers.{i}.fc2.bias": "blocks.{i}.mlp.down.bias",
    "decoder.final_layer_norm.weight": "unembed.ln_final.weight",
    "decoder.final_layer_norm.bias": "unembed.ln_final.bias",
    "decoder.project_out.weight": "unembed.project_out.weight",
    "lm_head.weight": "unembed.head.weight",
}
UNUSED = ("decoder.version",)


def facts(config: ConfigReader) -> DecoderConfig:
    """OPT's config.json as a DecoderConfig; defaults are transformers' OPTConfig's."""
    width, heads = config.size("hidden_size", 768), config.size("num_attention_heads", 12)
    pre_norm, bias = config.take("do_layer_norm_before", True), config.take("enable_bias", True)
    no_final_norm = config.take("_remove_final_layer_norm", False)
    config.no_effect("dropout", "attention_dropout", "layerdrop", "pad_token_id", "_attn_implementation")
    return DecoderConfig(
        vocab_size=config.size("vocab_size", 50272),
        n_layers=config.size("num_hidden_layers", 12),
        d_model=width,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=config.head_width(width, heads),
        d_mlp=config.size("ffn_dim", 3072),
        n_positions=config.size("max_position_embeddings", 2048),
        d_embed=config.size("word_embed_proj_dim", width, optional=True),
        norm="layer",
        norm_eps=1e-5,
        norm_weights="all" if config.take("layer_norm_elementwise_affine", True) else "none",
        activation=config.activation("activation_function", "relu"),
        post_norm=not pre_norm,
        final_norm=pre_norm and not no_final_norm,
        position_offset=2,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        tied_head=config.take("tie_word_embeddings", True),
    )
