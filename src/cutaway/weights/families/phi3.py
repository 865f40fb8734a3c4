"""Phi-3, Phi-3.5 and Phi-4 (Abdin et al. 2024, arXiv 2404.14219): its config as our facts, its weight names as ours.

It does not know how the values are computed. Like Llama, with q, k and v in one matrix and the gate beside the MLP's
other branch, and rotary positions of another frequency in long texts (longrope).
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common, sliding_window
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.rope import read_rope

ARCHITECTURES = ("Phi3ForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = {
    "embed_tokens.weight": "embed.token.weight",
    "layers.{i}.input_layernorm.weight": "blocks.{i}.ln1.weight",
    "layers.{i}.self_attn.qkv_proj.weight": "blocks.{i}.attn.qkv.weight",
    "layers.{i}.self_attn.o_proj.weight": "blocks.{i}.attn.out.weight",
    "layers.{i}.post_attention_layernorm.weight": "blocks.{i}.ln2.weight",
    "layers.{i}.mlp.gate_up_proj.weight": "blocks.{i}.mlp.up.weight",
    "layers.{i}.mlp.down_proj.weight": "blocks.{i}.mlp.down.weight",
    "norm.weight": "unembed.ln_final.weight",
    "lm_head.weight": "unembed.head.weight",
}
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """Phi-3's config.json as a DecoderConfig; defaults are transformers' Phi3Config's."""
    sizes = common(config, vocab=32064, width=3072, layers=32, heads=32, mlp=8192, positions=4096)
    config.no_effect("resid_pdrop", "embd_pdrop")
    window = sliding_window(config, None)
    rope = read_rope(
        config, sizes["d_head"], sizes["n_positions"], partial=1.0, original=4096, old_kinds={"su": "longrope"}
    )  # fmt: skip
    return DecoderConfig(
        **sizes,
        norm="rms",
        norm_eps=config.take("rms_norm_eps", 1e-5),
        rope=rope,
        layer_windows=() if window is None else (window,) * sizes["n_layers"],
        gated=True,
        qkv_bias=False,
        out_bias=False,
        mlp_bias=False,
    )
