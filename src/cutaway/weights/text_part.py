"""The text model inside a multimodal one: its config, its tensors, and what of the whole is left out.

It knows where such models keep their text half; it does not know families, nor what a tensor becomes.
"""

import re
from collections.abc import Mapping
from typing import Any

from cutaway.ground.errors import UnsupportedModel
from cutaway.weights.files.lazy import LazyTensor
from cutaway.weights.files.recognize import size_text

# Multimodal types whose pass over text alone is that of their text model, which a test compares with transformers.
# Elsewhere it is another one: PaliGemma attends to a whole prefix, Qwen2-VL counts positions in three axes.
TYPES = frozenset(
    """deepseek_vl gemma3 glmasr got_ocr2 idefics2 idefics3 internvl janus lighton_ocr llava llava_next llava_next_video
    llava_onevision mistral3 ovis2 qwen2_audio smolvlm video_llama_3 video_llava vipllava voxtral""".split()
)
SCALED = ("cohere", "cohere2", "gemma2", "granite")  # their logits are scaled or capped, but not inside of these types
TIED = "tie_word_embeddings"  # the whole model ties them or not
INHERITED = (TIED, "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype",
             "quantization_config")  # fmt: skip
TEXT = re.compile(r"(model\.)?(language_model|text_model)\.|(model\.)?lm_head\.")


def text_part(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The text model's config in a multimodal config.json, with what stands outside of it; None where there is none.

    Raises UnsupportedModel for a text model that transformers runs otherwise inside of a multimodal one.
    """
    inner = config.get("text_config")
    if config.get("model_type") not in TYPES or not isinstance(inner, Mapping):
        return None
    cap = inner.get("final_logit_softcapping")  # a gemma3_text may have one
    if inner.get("model_type") in SCALED or cap is not None:
        text = f"{inner.get('model_type')}{f' with final_logit_softcapping={cap!r}' if cap is not None else ''}"
        found = f"a {config['model_type']} around a {text}, whose logits it does not scale or cap"
        raise UnsupportedModel(found, "a text model that it leaves as it is", "choose the text model itself")
    outer = {name: config[name] for name in INHERITED if config.get(name) is not None}
    given = {name: value for name, value in inner.items() if value is not None and not (name == TIED and name in outer)}
    return outer | given


def text_tensors(tensors: Mapping[str, LazyTensor], model_type: str) -> tuple[dict[str, LazyTensor], str]:
    """The text model's tensors, and the note on the others."""
    kept = {name: tensor for name, tensor in tensors.items() if TEXT.match(name)}
    rest = {name: tensor for name, tensor in tensors.items() if name not in kept}
    nbytes = sum(tensor.nbytes for tensor in rest.values())
    modules: dict[str, int] = {}
    for name in rest:
        module = name.removeprefix("model.").partition(".")[0]
        modules[module] = modules.get(module, 0) + 1
    left = ", ".join(f"{count} tensors of {module}" for module, count in sorted(modules.items())) or "nothing else"
    return (
        kept,
        f"{model_type}: its text model is read, without images or sound; left out: {left} ({size_text(nbytes)})",
    )
