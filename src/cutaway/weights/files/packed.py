"""Quantized checkpoints of other tools: recognized by config.json or the tensors' names and dtypes, refused by name.

It does not know how those that are read are dequantized (dequantized.py).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from cutaway.ground.errors import UnsupportedModel
from cutaway.weights.files.lazy import LazyTensor

EXPECTED = "weights in full precision"
DO = "load the checkpoint that it was made from: cutaway makes the 8 bits itself"
METHODS = {
    "gptq": "GPTQ", "awq": "AWQ", "hqq": "HQQ", "eetq": "EETQ", "mxfp4": "MXFP4", "nvfp4": "NVFP4", "aqlm": "AQLM",
    "vptq": "VPTQ", "fbgemm_fp8": "FBGEMM fp8", "modelopt": "NVIDIA ModelOpt",
}  # fmt: skip
BITS = ("bits", "w_bit", "num_bits", "nbits", "weight_bits")
# The end of a tensor's name, and the tool that writes it.
NAMES = [
    (r"\.SCB|\.weight_format", "a bitsandbytes checkpoint in 8 bits"),
    (r"\.weight\.(absmax|quant_map|nested_absmax|quant_state\..+)", "a bitsandbytes checkpoint in 4 bits"),
    (r"\.(qweight|qzeros|g_idx)", "a GPTQ or AWQ checkpoint"),
    (r"\.experts\..+_(blocks|scales)", "an MXFP4 checkpoint"),
    (r"\.W_q", "an HQQ checkpoint"),
    (r"\.weight_scales", "an EETQ checkpoint"),
    (r"\.weight\._(data|scale|qdata)", "a quanto or torchao checkpoint"),
    (r"\.(codebooks|codes)", "an AQLM checkpoint"),
    (r"\.(centroids|indices)", "a VPTQ checkpoint"),
    (r"\.(trellis|suh|svh)", "an EXL3 checkpoint"),
    (r"\.(q_weight|q_scale|q_invperm)", "an EXL2 checkpoint"),
    (r"\.weight_packed", "a compressed-tensors checkpoint"),
    (r"\.weight_scale(_inv)?|\.input_scale", "an fp8 or compressed-tensors checkpoint"),
    (r"\.(scales|biases)", "an MLX checkpoint in few bits"),
    (r"\.lora_[AB](\..+)?\.weight|\.lora_(down|up)\.weight", "the tensors of a LoRA adapter"),
]


def refuse_packed_config(config: Mapping[str, Any], in_files: bool = True, transposed: bool = False) -> None:
    """Raise UnsupportedModel where config.json says that another tool quantized the weights.

    in_files: where the weights are files, of which dequantized.py reads some formats. transposed: where a family
    stores matrices as [inputs, outputs], which those formats do not.
    """
    quantization = config.get("quantization_config") or config.get("compression_config") or config.get("quantization")
    if not isinstance(quantization, Mapping) or not quantization:
        return
    method = str(quantization.get("quant_method") or quantization.get("quant_algo") or "")
    name = METHODS.get(method, method) or ("MLX" if "group_size" in quantization else "quantized")
    if method == "bitsandbytes" and all(quantization.get(f"load_in_{bits}bit") is False for bits in (4, 8)):
        return  # not quantized
    if in_files and (method == "mxfp4" or (not transposed and _is_read(method, quantization))):
        return
    bits = _bits(quantization)
    found = f"a quantized checkpoint: {name}{f', {bits} bits a weight' if bits else ''} (config.json)"
    raise UnsupportedModel(found, EXPECTED, DO)


def _is_read(method: str, quantization: Mapping[str, Any]) -> bool:
    """Whether dequantized.py reads this format; the tensors decide in the end."""
    if method == "compressed-tensors":
        formats = ("float-quantized", "naive-quantized", "int-quantized")
        return quantization.get("format") in formats and _bits(quantization) == 8
    return method in ("bitsandbytes", "fp8", "fbgemm_fp8")


def _bits(quantization: Mapping[str, Any]) -> int | None:
    """Bits of a weight, where the config says so."""
    for bits in (4, 8):
        if quantization.get(f"load_in_{bits}bit"):
            return bits
    groups = quantization.get("config_groups")
    group = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = group.get("weights") if isinstance(group, Mapping) else None
    for part in (quantization, weights if isinstance(weights, Mapping) else {}):
        for name in BITS:
            if type(part.get(name)) is int:
                return part[name]
    return 8 if "fp8" in str(quantization.get("quant_method")) else None


def refuse_packed_names(names: Iterable[str], where: str) -> None:
    """Raise UnsupportedModel where tensors have the names of a tool's packed weights."""
    names = list(names)
    for pattern, what in NAMES:
        name = next((name for name in names if re.search(rf"({pattern})$", name)), None)
        if name is None:
            continue
        if "lora" in pattern:
            do = "merge it first: peft's merge_and_unload(), then save_pretrained to a new folder"
            raise UnsupportedModel(f"{what} (as {name!r}) in {where}", "a model's own weights only", do)
        raise UnsupportedModel(f"{what} (as {name!r}) in {where}", EXPECTED, DO)


def refuse_packed(tensors: Mapping[str, LazyTensor], where: str, ending: str = ".weight") -> None:
    """Raise UnsupportedModel where tensors are packed: by their names, or where weights are no floats.

    ending: of the names of weights, "" where every tensor is a weight; PyTorch's files hold buffers too.
    """
    refuse_packed_names(tensors, where)
    for name, tensor in tensors.items():
        if name.endswith(ending) and (not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2):
            bare = ", an fp8 checkpoint without scales" if tensor.dtype.is_floating_point else ""
            found = f"{name!r} in {str(tensor.dtype).removeprefix('torch.')} in {where}{bare}"
            raise UnsupportedModel(found, "weights in float64, float32, float16 or bfloat16", DO)


def refuse_dtype(code: str, name: str, where: str) -> None:
    """Raise UnsupportedModel for a safetensors dtype that only quantized checkpoints have."""
    if re.fullmatch(r"F[468](_.*)?", code):
        found = f"the dtype {code} of {name!r} in {where}, an fp{code[1]} checkpoint"
        raise UnsupportedModel(found, EXPECTED, DO)
