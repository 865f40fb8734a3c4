"""CodeGen (Nijkamp et al. 2022, arXiv 2203.13474): its config as our facts, its weight names as ours.

It does not know how the values are computed. Like GPT-J, with q, v and k of each quarter of the heads together in one
matrix.
"""

from cutaway.ground.config import DecoderConfig
from cutaway.weights.config_reader import ConfigReader
from cutaway.weights.families import gptj

ARCHITECTURES = ("CodeGenForCausalLM",)
ALIASES = gptj.ALIASES
PREFIXES = ("transformer.", "")
WEIGHTS = gptj.WEIGHTS | {"h.{i}.attn.qkv_proj.weight": "blocks.{i}.attn.qkv.weight[q v k by quarter]"}
UNUSED = ("h.{i}.attn.causal_mask",)


def facts(config: ConfigReader) -> DecoderConfig:
    """CodeGen's config.json as a DecoderConfig; it and its defaults are GPT-J's."""
    heads = config.size("n_head", 16)
    if heads % 4:
        raise config.wrong(f"n_head={heads}", "a multiple of 4")
    config.no_effect("n_ctx")
    return gptj.facts(config)
