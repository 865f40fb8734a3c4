"""OPT (Zhang et al. 2022, arXiv 2205.01068), all sizes: its config in our facts, its weight names in ours.

It does not know how the values are computed. Quirks: positions start at row 2 of their table; opt-350m alone has
its norms after the sums, projections around a narrower embedding, and no final norm.
"""

from typing import Any

from cutaway.ground.config import DecoderConfig
from cutaway.weights.families.facts import Facts

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
    # In a layer this is the norm of the MLP half, not the model's last norm.
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


def facts(config: dict[str, Any]) -> DecoderConfig:
    """OPT's config.json as a DecoderConfig; defaults are transformers' OPTConfig's."""
    said = Facts(config, "opt")
    width, heads = said.size("hidden_size", 768), said.size("num_attention_heads", 12)
    pre_norm, bias = said.take("do_layer_norm_before", True), said.take("enable_bias", True)
    said.only("layer_norm_elementwise_affine", True)
    no_final_norm = said.take("_remove_final_layer_norm", False)
    ours = DecoderConfig(
        vocab_size=said.size("vocab_size", 50272),
        n_layers=said.size("num_hidden_layers", 12),
        d_model=width,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=said.heads(width, heads),
        d_mlp=said.size("ffn_dim", 3072),
        n_positions=said.size("max_position_embeddings", 2048),
        d_embed=said.size("word_embed_proj_dim", width),
        norm="layer",
        norm_eps=1e-5,
        activation=said.activation("activation_function", "relu"),
        post_norm=not pre_norm,
        final_norm=pre_norm and not no_final_norm,
        position_offset=2,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        tied_head=said.take("tie_word_embeddings", True),
    )
    said.finish()
    return ours
