"""GPT-2 (Radford et al. 2019): its config in our facts, its weight names in ours.

It does not know how the values are computed. Quirk: its matrices are stored [in, out], so they are transposed (`.T`).
"""

from typing import Any

from cutaway.ground.config import DecoderConfig
from cutaway.weights.families.facts import Facts

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
UNUSED = ("h.{i}.attn.bias", "h.{i}.attn.masked_bias")  # causal masks, stored by old versions


def facts(config: dict[str, Any]) -> DecoderConfig:
    """GPT-2's config.json as a DecoderConfig; defaults are transformers' GPT2Config's."""
    said = Facts(config, "gpt2")
    width, heads = said.size("n_embd", 768), said.size("n_head", 12)
    said.only("scale_attn_weights", True)
    said.only("scale_attn_by_inverse_layer_idx", False)
    said.only("reorder_and_upcast_attn", False)
    said.only("add_cross_attention", False)
    n_positions = said.size("n_positions", 1024)
    for harmless in ("n_ctx", "summary_type", "summary_use_proj", "summary_activation",
                     "summary_proj_to_labels", "summary_first_dropout"):  # fmt: skip
        said.seen.add(harmless)  # n_ctx repeats n_positions; summary_* serve another head
    ours = DecoderConfig(
        vocab_size=said.size("vocab_size", 50257),
        n_layers=said.size("n_layer", 12),
        d_model=width,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=said.heads(width, heads),
        d_mlp=said.size("n_inner", 4 * width),
        n_positions=n_positions,
        d_embed=width,
        norm="layer",
        norm_eps=said.take("layer_norm_epsilon", 1e-5),
        activation=said.activation("activation_function", "gelu_new"),
        tied_head=said.take("tie_word_embeddings", True),
    )
    said.finish()
    return ours
