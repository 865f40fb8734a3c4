"""Gemma 3 (Gemma Team 2025, arXiv 2503.19786), text only: its config as our facts, its weight names as ours.

It does not know how the values are computed. Beyond Gemma 2: a norm of q and k by head, five layers with a window to
one without, and rotary positions of another base in those.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.common import common, layer_types, sliding_window, windows
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families.gemma2 import WEIGHTS as GEMMA2
from cutaway.weights.families.gemma2 import shared
from cutaway.weights.rope import layer_ropes

ARCHITECTURES = ("Gemma3ForCausalLM",)
PREFIXES = ("model.", "")
WEIGHTS = GEMMA2 | {
    "layers.{i}.self_attn.q_norm.weight": "blocks.{i}.attn.q_norm.weight",
    "layers.{i}.self_attn.k_norm.weight": "blocks.{i}.attn.k_norm.weight",
}
UNUSED = ()


def facts(config: ConfigReader) -> DecoderConfig:
    """Gemma 3's config.json as a DecoderConfig; defaults are transformers' Gemma3TextConfig's."""
    sizes = common(
        config, vocab=262208, width=2304, layers=26, heads=8, kv_heads=4, mlp=9216, positions=131072, head_dim=256,
        activation=("hidden_activation", "gelu_pytorch_tanh"), tied=True,
    )  # fmt: skip
    every = config.size("sliding_window_pattern", 6, optional=True)
    types = layer_types(config, sizes["n_layers"], lambda i: (i + 1) % every != 0)
    config.no_effect("attn_logit_softcapping")  # transformers reads it and caps no score
    local = config.positive("rope_local_base_freq", 10000.0)
    return DecoderConfig(
        **sizes,
        **shared(config, sizes, logit_softcap=None),
        qk_norm="head",
        layer_ropes=layer_ropes(config, types, sizes["d_head"], sizes["n_positions"], theta=1e6, local=local),
        layer_windows=windows(config, types, sliding_window(config, 4096)),
    )
