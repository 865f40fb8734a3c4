"""GPT-J (Wang and Komatsuzaki 2021): its config as our facts, its weight names as ours.

It does not know how the values are computed. Quirks: attention and MLP read the same norm, neighbouring components are
rotated together, and the head has a bias.
"""

from cutaway.ground.config import DecoderConfig, RopeConfig
from cutaway.weights.config_reader import ConfigReader

ARCHITECTURES = ("GPTJForCausalLM",)
ALIASES = {
    "max_position_embeddings": "n_positions",
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
PREFIXES = ("transformer.", "")
WEIGHTS = {
    "wte.weight": "embed.token.weight",
    "h.{i}.ln_1.weight": "blocks.{i}.ln1.weight",
    "h.{i}.ln_1.bias": "blocks.{i}.ln1.bias",
    "h.{i}.attn.q_proj.weight": "blocks.{i}.attn.qkv.weight[q]",
    "h.{i}.attn.k_proj.weight": "blocks.{i}.attn.qkv.weight[k]",
    "h.{i}.attn.v_proj.weight": "blocks.{i}.attn.qkv.weight[v]",
    "h.{i}.attn.out_proj.weight": "blocks.{i}.attn.out.weight",
    "h.{i}.mlp.fc_in.weight": "blocks.{i}.mlp.up.weight",
    "h.{i}.mlp.fc_in.bias": "blocks.{i}.mlp.up.bias",
    "h.{i}.mlp.fc_out.weight": "blocks.{i}.mlp.down.weight",
    "h.{i}.mlp.fc_out.bias": "blocks.{i}.mlp.down.bias",
    "ln_f.weight": "unembed.ln_final.weight",
    "ln_f.bias": "unembed.ln_final.bias",
    "lm_head.weight": "unembed.head.weight",
    "lm_head.bias": "unembed.head.bias",
}
UNUSED = ("h.{i}.attn.bias",)  # the causal mask, stored by old versions


def facts(config: ConfigReader) -> DecoderConfig:
    """GPT-J's config.json as a DecoderConfig; defaults are transformers' GPTJConfig's."""
    width, heads = config.size("n_embd", 4096), config.size("n_head", 16)
    d_head = config.head_width(width, heads)
    rotated = config.size("rotary_dim", 64, optional=True)
    if config.config.get("rotary_dim", 64) is None or rotated > d_head or rotated % 2:
        raise config.wrong(
            f"rotary_dim={config.config.get('rotary_dim', 64)}", f"an even number up to {d_head}, a head's width"
        )
    config.no_effect("resid_pdrop", "embd_pdrop", "attn_pdrop", "use_cache", "_attn_implementation")
    return DecoderConfig(
        vocab_size=config.size("vocab_size", 50400),
        n_layers=config.size("n_layer", 28),
        d_model=width,
        n_heads=heads,
        n_kv_heads=heads,
        d_head=d_head,
        d_mlp=config.size("n_inner", 4 * width, optional=True),
        n_positions=config.size("n_positions", 2048),
        d_embed=width,
        norm="layer",
        norm_eps=config.take("layer_norm_epsilon", 1e-5),
        activation=config.activation("activation_function", "gelu_new"),
        parallel=True,
        shared_norm=True,
        rope=RopeConfig(10000.0, rotated, interleaved=True),
        qkv_bias=False,
        out_bias=False,
        head_bias=True,
        tied_head=config.take("tie_word_embeddings", False),
    )
