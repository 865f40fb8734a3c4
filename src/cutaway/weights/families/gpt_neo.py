"""GPT-Neo (Black et al. 2021): its config as our facts, its weight names as ours.

It does not know how the values are computed. Quirks: scores are not divided, and every other layer has a window.
"""

from typing import Any

from cutaway.ground.config import DecoderConfig
from cutaway.weights.config_reader import ConfigReader

ARCHITECTURES = ("GPTNeoForCausalLM",)
ALIASES = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}
PREFIXES = ("transformer.", "")
WEIGHTS = {
    "wte.weight": "embed.token.weight",
    "wpe.weight": "embed.position.weight",
    "h.{i}.ln_1.weight": "blocks.{i}.ln1.weight",
    "h.{i}.ln_1.bias": "blocks.{i}.ln1.bias",
    "h.{i}.attn.attention.q_proj.weight": "blocks.{i}.attn.qkv.weight[q]",
    "h.{i}.attn.attention.k_proj.weight": "blocks.{i}.attn.qkv.weight[k]",
    "h.{i}.attn.attention.v_proj.weight": "blocks.{i}.attn.qkv.weight[v]",
    "h.{i}.attn.attention.out_proj.weight": "blocks.{i}.attn.out.weight",
    "h.{i}.attn.attention.out_proj.bias": "blocks.{i}.attn.out.bias",
    "h.{i}.ln_2.weight": "blocks.{i}.ln2.weight",
    "h.{i}.ln_2.bias": "blocks.{i}.ln2.bias",
    "h.{i}.mlp.c_fc.weight": "blocks.{i}.mlp.up.weight",
    "h.{i}.mlp.c_fc.bias": "blocks.{i}.mlp.up.bias",
    "h.{i}.mlp.c_proj.weight": "blocks.{i}.mlp.down.weight",
    "h.{i}.mlp.c_proj.bias": "blocks.{i}.mlp.down.bias",
    "ln_f.weight": "unembed.ln_final.weight",
    "ln_f.bias": "unembed.ln_final.bias",
    "lm_head.weight": "unembed.head.weight",
}
UNUSED = ("h.{i}.attn.attention.bias",)  # the causal mask, stored by old versions


def facts(config: ConfigReader) -> DecoderConfig:
    """GPT-Neo's config.json as a DecoderConfig; defaults are transformers' GPTNeoConfig's."""
    width, heads, n_layers = (
        config.size("hidden_size", 2048),
        config.size("num_heads", 16),
        config.size("num_layers", 24),
    )
    config.no_effect("resid_dropout", "embed_dropout", "attention_dropout", "classifier_dropout", "use_cache")
    config.no_effect("output_attentions", "output_hidden_states", "return_dict", "_attn_implementation")
    return DecoderConfig(
        vocab_size=config.size("vocab_size", 50257),
        n_layers=n_layers,
        d_model=width,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=config.head_width(width, heads),
        d_mlp=config.size("intermediate_size", 4 * width, optional=True),
        n_positions=config.size("max_position_embeddings", 2048),
        d_embed=width,
        norm="layer",
        norm_eps=config.take("layer_norm_epsilon", 1e-5),
        activation=config.activation("activation_function", "gelu_new"),
        attn_scale=1.0,
        layer_windows=_windows(config, n_layers),
        qkv_bias=False,
        tied_head=config.take("tie_word_embeddings", True),
    )


def _windows(config: ConfigReader, n_layers: int) -> tuple[int | None, ...]:
    """attention_types: kinds of layers in turn and how often, such as [[["global", "local"], 12]]."""
    size = config.size("window_size", 256)
    given: list[Any] = config.take("attention_types", [[["global", "local"], 12]], list)
    config.no_effect("attention_layers")  # attention_types, written out
    if not all(map(_is_turn, given)):
        raise config.wrong(f"attention_types={given}", 'such as [[["global", "local"], 12]]')
    kinds = [kind for turn, times in given for _ in range(times) for kind in turn]
    if len(kinds) != n_layers or not {"global", "local"} >= set(kinds):
        raise config.wrong(f"attention_types of {len(kinds)} layers", f"global or local for each of {n_layers}")
    return tuple(size if kind == "local" else None for kind in kinds)


def _is_turn(part: Any) -> bool:
    """Whether this is a list of kinds and how often they follow."""
    return isinstance(part, list) and len(part) == 2 and isinstance(part[0], list) and type(part[1]) is int
