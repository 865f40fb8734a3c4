"""Rotary positions of a GGUF as config.json says them: its scaling keys, and the tensors of divisors.

It does not know architectures. The keys have llama.cpp's meaning (llama-model.cpp, load_hparams).
"""

import math
from typing import Any

import torch
from torch import Tensor

from cutaway.ground.errors import UnsupportedModel
from cutaway.weights.files.gguf_format import GGUF
from cutaway.weights.files.gguf_metadata import Metadata

YARN_BETAS = (("fast", 32.0), ("slow", 1.0))
LLAMA3_CONTEXT, LLAMA3_LOW, LLAMA3_HIGH = 8192, 1.0, 4.0  # of every Llama 3.x that was published
LONG, SHORT, FREQS = "rope_factors_long.weight", "rope_factors_short.weight", "rope_freqs.weight"


def rope_scaling(gguf: GGUF, metadata: Metadata, theta: float, dims: int, context: int) -> dict[str, Any] | None:
    """config.json's rope_scaling, or None. dims: of a head's components, how many are rotated."""
    kind = metadata.take("rope.scaling.type", str, "linear")  # llama.cpp's own default: linear, by a factor of 1
    factor = metadata.decimal("rope.scaling.factor", metadata.decimal("rope.scale_linear", 1.0)) or 1.0
    original = metadata.take("rope.scaling.original_context_length", int, 0)
    betas = {f"beta_{end}": metadata.decimal(f"rope.scaling.yarn_beta_{end}", default) for end, default in YARN_BETAS}
    if LONG in gguf.tensors and SHORT in gguf.tensors and kind in ("linear", "longrope"):
        metadata.require("rope.scaling.factor", float, 1.0)
        return _longrope(gguf, metadata, original or context, context)
    if kind not in ("none", "linear", "yarn"):
        found = f"{metadata.prefix}rope.scaling.type={kind!r} in {gguf.path.name}"
        raise UnsupportedModel(found, "none, linear or yarn", "choose a model with one of those")
    if FREQS in gguf.tensors:
        metadata.require("rope.scaling.factor", float, 1.0)  # transformers has no rule for both at once
        divisors = gguf.tensors[FREQS].read().double()
        return _llama3_scaling(gguf, divisors, theta, dims, original or LLAMA3_CONTEXT)
    if kind != "yarn" or factor == 1.0:
        metadata.require("rope.scaling.attn_factor", float, 1.0)
        return {"rope_type": "linear", "factor": factor} if kind == "linear" and factor != 1.0 else None
    strength = metadata.decimal("rope.scaling.attn_factor", 1.0)
    scaling = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original or context, **betas}
    if strength != 1.0:  # llama.cpp multiplies it with YaRN's own; transformers' attention_factor is the product
        scaling["attention_factor"] = strength * (0.1 * math.log(factor) + 1.0)
    return scaling


def _longrope(gguf: GGUF, metadata: Metadata, original: int, context: int) -> dict[str, Any]:
    """The strength stands there only where it is not the one that follows from both contexts."""
    short, long = (_decimals(gguf.tensors[name].read()) for name in (SHORT, LONG))
    strength = metadata.decimal("rope.scaling.attn_factor", 1.0)
    implied = math.sqrt(1 + math.log(context / original) / math.log(original)) if context > original > 1 else 1.0
    scaling = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
    scaling["original_max_position_embeddings"] = original
    return scaling if math.isclose(strength, implied, rel_tol=1e-6) else scaling | {"attention_factor": strength}


def _decimals(values: Tensor) -> list[float]:
    """Each float32's shortest decimal, as a config.json has it."""
    return [float(str(value)) for value in values.float().flatten().numpy()]


def _llama3_scaling(gguf: GGUF, divisors: Tensor, theta: float, dims: int, original: int) -> dict[str, Any] | None:
    """The llama3 rule with these divisors of the frequencies, [dims / 2]: a GGUF has the divisors only.

    Raises UnsupportedModel where they are not those of the published rule.
    """
    factor = float(divisors.max())
    if factor == 1.0 and bool((divisors == 1.0).all()):
        return None
    waves = 2 * math.pi * theta ** (torch.arange(0, dims, 2, dtype=torch.float64, device="cpu") / dims)
    blend = ((original / waves - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW)).clamp(0.0, 1.0)
    expected = 1.0 / ((1.0 - blend) / factor + blend)
    if divisors.shape != expected.shape or not torch.allclose(divisors, expected, rtol=1e-4, atol=0.0):
        found = f"{FREQS} in {gguf.path.name} with divisors up to {factor:g}"
        raise UnsupportedModel(
            found, f"those of Llama 3.x for a context of {original}", "use the model's original files"
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LLAMA3_LOW,
        "high_freq_factor": LLAMA3_HIGH,
        "original_max_position_embeddings": original,
    }
