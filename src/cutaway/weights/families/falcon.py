"""Falcon (Almazrouei et al. 2023, arXiv 2311.16867): its config as our facts, its weight names as ours.

It does not know how the values are computed. Quirks: q, k and v of a group of heads stand together in one matrix;
attention and MLP are parallel with one norm (7B) or two (40B and 180B), or follow each other (RW, with ALiBi).
"""

from cutaway.ground.config import AlibiConfig, DecoderConfig
from cutaway.weights.alibi import slopes
from cutaway.weights.common import shared_heads
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("FalconForCausalLM",)
PREFIXES = ("transformer.", "")
WEIGHTS = {
    "word_embeddings.weight": "embed.token.weight",
    "h.{i}.input_layernorm.weight": "blocks.{i}.ln1.weight",
    "h.{i}.input_layernorm.bias": "blocks.{i}.ln1.bias",
    "h.{i}.ln_attn.weight": "blocks.{i}.ln1.weight",
    "h.{i}.ln_attn.bias": "blocks.{i}.ln1.bias",
    "h.{i}.self_attention.query_key_value.weight": "blocks.{i}.attn.qkv.weight[q k v by group]",
    "h.{i}.self_attention.query_key_value.bias": "blocks.{i}.attn.qkv.bias[q k v by group]",
    "h.{i}.self_attention.dense.weight": "blocks.{i}.attn.out.weight",
    "h.{i}.self_attention.dense.bias": "blocks.{i}.attn.out.bias",
    "h.{i}.post_attention_layernorm.weight": "blocks.{i}.ln2.weight",
    "h.{i}.post_attention_layernorm.bias": "blocks.{i}.ln2.bias",
    "h.{i}.ln_mlp.weight": "blocks.{i}.ln2.weight",
    "h.{i}.ln_mlp.bias": "blocks.{i}.ln2.bias",
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
    """Falcon's config.json as a DecoderConfig; defaults are transformers' FalconConfig's."""
    width = config.size("n_embed", config.size("hidden_size", 4544), optional=True)
    heads, n_positions = config.size("num_attention_heads", 71), config.size("max_position_embeddings", 2048)
    d_head = config.head_width(width, heads)
    parallel, shared = _norms(config)
    bias, use_alibi = config.take("bias", False), config.take("alibi", False)
    rope = read_rope(config, d_head, n_positions)
    config.no_effect("hidden_dropout", "attention_dropout", "use_cache", "head_dim", "_attn_implementation")
    return DecoderConfig(
        vocab_size=config.size("vocab_size", 65024),
        n_layers=config.size("num_hidden_layers", 32),
        d_model=width,
        n_heads=heads,
        n_kv_heads=_kv_heads(config, heads),
        d_head=d_head,
        d_mlp=config.size("ffn_hidden_size", 4 * width, optional=True),
        n_positions=n_positions,
        d_embed=width,
        norm="layer",
        norm_eps=config.take("layer_norm_epsilon", 1e-5),
        activation=config.activation("activation", "gelu"),
        parallel=parallel,
        shared_norm=shared,
        rope=None if use_alibi else rope,
        # as trained: in bfloat16, and divided like the scores
        alibi=AlibiConfig(slopes(heads), scale=d_head**-0.5, bfloat16=True) if use_alibi else None,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        tied_head=config.take("tie_word_embeddings", True),
    )


def _kv_heads(config: ConfigReader, heads: int) -> int:
    """In the old architecture one, or one for each head."""
    given = config.size("num_kv_heads", heads, optional=True)
    one = config.take("multi_query", True)
    if config.take("new_decoder_architecture", False):
        return shared_heads(config, heads, given)
    if not one and given != heads:
        raise config.wrong(f"num_kv_heads={given} for {heads} heads with multi_query=false", f"{heads}")
    return 1 if one else heads


def _norms(config: ConfigReader) -> tuple[bool, bool]:
    """Whether attention and MLP are parallel, and whether they then share a norm."""
    new, parallel = config.take("new_decoder_architecture", False), config.take("parallel_attn", True)
    norms = config.take("num_ln_in_parallel_attn", 2 if new else 1, int)
    if norms not in ((1, 2) if new else (1,)) or (new and not parallel):
        found = f"new_decoder_architecture={new}, parallel_attn={parallel} and num_ln_in_parallel_attn={norms}"
        raise config.wrong(found, "a new architecture that is parallel with 1 or 2 norms, or an old one with 1")
    return parallel, parallel and norms == 1
