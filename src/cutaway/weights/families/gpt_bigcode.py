"""GPT-BigCode: SantaCoder and StarCoder (Li et al. 2023, arXiv 2305.06161): its config as our facts, its weight names
as ours.

It does not know how the values are computed. Like GPT-2, with one key/value head for all, or q, k and v of a head
together in one matrix.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.gpt2 import ALIASES as GPT2_ALIASES
from cutaway.weights.families.gpt2 import WEIGHTS as GPT2

ARCHITECTURES = ("GPTBigCodeForCausalLM",)
ALIASES = GPT2_ALIASES
PREFIXES = ("transformer.", "")
# As GPT-2's, but its matrices are stored as they are used.
WEIGHTS = {theirs: ours.removesuffix(".T") for theirs, ours in GPT2.items()} | {
    "h.{i}.attn.c_attn.weight": "blocks.{i}.attn.qkv.weight[q k v by group]",
    "h.{i}.attn.c_attn.bias": "blocks.{i}.attn.qkv.bias[q k v by group]",
}
UNUSED = ("h.{i}.attn.bias",)  # the causal mask, stored by old versions


def facts(config: ConfigReader) -> DecoderConfig:
    """GPT-BigCode's config.json as a DecoderConfig; defaults are transformers' GPTBigCodeConfig's."""
    width, heads = config.size("n_embd", 768), config.size("n_head", 12)
    config.require("add_cross_attention", False, "makes it half of an encoder-decoder")
    # softmax is taken in float32 in any case
    config.no_effect("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "_attn_implementation")
    config.no_effect("attn_pdrop", "embd_pdrop", "resid_pdrop", "use_cache", "num_key_value_heads", "n_ctx")
    return DecoderConfig(
        vocab_size=config.size("vocab_size", 50257),
        n_layers=config.size("n_layer", 12),
        d_model=width,
        n_heads=heads,
        n_kv_heads=1 if config.take("multi_query", True) else heads,
        d_head=config.head_width(width, heads),
        d_mlp=config.size("n_inner", 4 * width, optional=True),
        n_positions=config.size("n_positions", 1024),
        d_embed=width,
        norm="layer",
        norm_eps=config.take("layer_norm_epsilon", 1e-5),
        activation=config.activation("activation_function", "gelu_pytorch_tanh"),
        attn_scale=None if config.take("scale_attn_weights", True) else 1.0,
        tied_head=config.take("tie_word_embeddings", True),
    )
