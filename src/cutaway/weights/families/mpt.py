"""MPT (MosaicML 2023): its config as our facts, its weight names as ours.

It does not know how the values are computed. Quirks: positions only add to the scores (ALiBi), its LayerNorm has no
bias, and q, k and v may be clipped.
"""

from cutaway.ground.config import AlibiConfig, DecoderConfig
from cutaway.weights.alibi import slopes_of_halves
from cutaway.weights.config_reader import ConfigReader

ARCHITECTURES = ("MptForCausalLM", "MPTForCausalLM")
ALIASES = {"num_attention_heads": "n_heads", "hidden_size": "d_model", "num_hidden_layers": "n_layers"}
PREFIXES = ("transformer.", "")
WEIGHTS = {
    "wte.weight": "embed.token.weight",
    "blocks.{i}.norm_1.weight": "blocks.{i}.ln1.weight",
    "blocks.{i}.attn.Wqkv.weight": "blocks.{i}.attn.qkv.weight",
    "blocks.{i}.attn.out_proj.weight": "blocks.{i}.attn.out.weight",
    "blocks.{i}.norm_2.weight": "blocks.{i}.ln2.weight",
    "blocks.{i}.ffn.up_proj.weight": "blocks.{i}.mlp.up.weight",
    "blocks.{i}.ffn.down_proj.weight": "blocks.{i}.mlp.down.weight",
    "norm_f.weight": "unembed.ln_final.weight",
    "lm_head.weight": "unembed.head.weight",
}
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """MPT's config.json as a DecoderConfig; defaults are transformers' MptConfig's."""
    width, heads = config.size("d_model", 2048), config.size("n_heads", 16)
    config.require("expansion_ratio", 4, "gives the MLP another width than transformers' 4 times the model's")
    config.require("no_bias", True, "adds biases")
    config.require("logit_scale", None, "scales the logits")
    attention = ConfigReader(config.take("attn_config", {}, dict), "mpt", source=config.source)
    attention.require("attn_type", "multihead_attention", "shares keys and values")
    attention.require("alibi", True, "leaves positions to a table")
    attention.require("alibi_bias_max", 8, "gives the heads other slopes")
    attention.require("prefix_lm", False, "lets a token of the prompt attend to later ones")
    attention.require("qk_ln", False, "norms q and k")
    attention.require("rope", False, "rotates q and k")
    attention.require("kv_n_heads", heads, "shares keys and values")
    attention.require("qk_gn", False, "norms q and k")
    attention.require("sliding_window_size", -1, "gives attention a window")
    attention.require("attn_logit_softcapping", None, "caps the scores")
    attention.no_effect("attn_pdrop", "attn_impl", "attn_uses_sequence_id")
    scale = attention.optional("softmax_scale", None)
    clip = attention.optional("clip_qkv", None) if attention.take("clip_qkv", 0, float) else None  # 0: none
    list(map(config.note, attention.notes()))
    config.no_effect("emb_pdrop", "resid_pdrop", "use_cache", "_attn_implementation")
    config.no_effect("output_attentions", "output_hidden_states", "return_dict")
    return DecoderConfig(
        vocab_size=config.size("vocab_size", 50368),
        n_layers=config.size("n_layers", 24),
        d_model=width,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=config.head_width(width, heads),
        d_mlp=4 * width,
        n_positions=config.size("max_seq_len", 2048),
        d_embed=width,
        norm="layer",
        norm_eps=config.take("layer_norm_epsilon", 1e-5),
        norm_weights="gain",
        activation="gelu",
        alibi=AlibiConfig(slopes_of_halves(heads)),
        attn_scale=scale,
        qkv_clip=clip,
        qkv_bias=False,
        out_bias=False,
        mlp_bias=False,
        tied_head=config.take("tie_word_embeddings", True),
    )
