"""GPT-2 (Radford et al. 2019): its config as our facts, its weight names as ours.

It does not know how the values are computed. Quirk: its matrices are stored [in, out], so they are transposed (`.T`).
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.config_reader import ConfigReader

ARCHITECTURES = ("GPT2LMHeadModel",)
ATTRIBUTES = frozenset({"n_embd", "n_head", "n_layer", "n_ctx", "layer_norm_epsilon"})  # of the oldest files
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
SUMMARY = ("type", "use_proj", "activation", "proj_to_labels", "first_dropout", "last_dropout")  # of another head
PREFIXES = ("transformer.", "")
WEIGHTS = {
    "wte.weight": "embed.token.weight",
    "wpe.weight": "embed.position.weight",
    "h.{i}.ln_1.weight": "blocks.{i}.ln1.weight",
    "h.{i}.ln_1.bias": "blocks.{i}.ln1.bias",
    "h.{i}.attn.c_attn.weight": "blocks.{i}.attn.qkv.weight.T",
    "h.{i}.attn.c_attn.bias": "blocks.{i}.attn.qkv.bias",
    "h.{i}.attn.c_proj.weight": "blocks.{i}.attn.out.weight.T",
    "h.{i}.attn.c_proj.bias": "blocks.{i}.attn.out.bias",
    "h.{i}.ln_2.weight": "blocks.{i}.ln2.weight",
    "h.{i}.ln_2.bias": "blocks.{i}.ln2.bias",
    "h.{i}.mlp.c_fc.weight": "blocks.{i}.mlp.up.weight.T",
    "h.{i}.mlp.c_fc.bias": "blocks.{i}.mlp.up.bias",
    "h.{i}.mlp.c_proj.weight": "blocks.{i}.mlp.down.weight.T",
    "h.{i}.mlp.c_proj.bias": "blocks.{i}.mlp.down.bias",
    "ln_f.weight": "unembed.ln_final.weight",
    "ln_f.bias": "unembed.ln_final.bias",
    "lm_head.weight": "unembed.head.weight",
}
UNUSED = ("h.{i}.attn.bias",)  # the causal mask, stored by old versions


def facts(config: ConfigReader) -> DecoderConfig:
    """GPT-2's config.json as a DecoderConfig; defaults are transformers' GPT2Config's."""
    width, heads = config.size("n_embd", 768), config.size("n_head", 12)
    config.require("add_cross_attention", False, "makes it half of an encoder-decoder")
    config.no_effect("reorder_and_upcast_attn")  # scales and multiplies q and k in float32, as we do
    config.no_effect("attn_pdrop", "embd_pdrop", "resid_pdrop", "pad_token_id", "use_cache", "_attn_implementation")
    config.no_effect("n_ctx")  # repeats n_positions
    config.no_effect(*(f"summary_{name}" for name in SUMMARY))
    return DecoderConfig(
        vocab_size=config.size("vocab_size", 50257),
        n_layers=config.size("n_layer", 12),
        d_model=width,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=config.head_width(width, heads),
        d_mlp=config.size("n_inner", 4 * width, optional=True),
        n_positions=config.size("n_positions", 1024),
        d_embed=width,
        norm="layer",
        norm_eps=config.take("layer_norm_epsilon", 1e-5),
        activation=config.activation("activation_function", "gelu_new"),
        attn_scale=None if config.take("scale_attn_weights", True) else 1.0,
        scale_by_layer=config.take("scale_attn_by_inverse_layer_idx", False),
        tied_head=config.take("tie_word_embeddings", True),
    )
