"""A GGUF file in Hugging Face's terms: the config.json that it implies, and its tensors under transformers' names.

It does not know the bytes of the format (gguf_format.py), the decoder, nor how a tokenizer is built.
"""

import math
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutaway.ground.errors import BadCheckpoint, UnsupportedModel
from cutaway.text.gguf_roles import end_ids, role_ids, unsound
from cutaway.weights.config_reader import leftover
from cutaway.weights.files.gguf_format import GGUF, damaged
from cutaway.weights.files.gguf_split import open_gguf
from cutaway.weights.files.lazy import LazyTensor, Note
from cutaway.weights.files.packed import refuse_packed

__all__ = ["GGUF", "hugging_face_view", "open_gguf"]

LLAMA_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "blk.{i}.attn_norm.weight": "model.layers.{i}.input_layernorm.weight",
    "blk.{i}.attn_q.weight": "model.layers.{i}.self_attn.q_proj.weight",
    "blk.{i}.attn_q.bias": "model.layers.{i}.self_attn.q_proj.bias",
    "blk.{i}.attn_k.weight": "model.layers.{i}.self_attn.k_proj.weight",
    "blk.{i}.attn_k.bias": "model.layers.{i}.self_attn.k_proj.bias",
    "blk.{i}.attn_v.weight": "model.layers.{i}.self_attn.v_proj.weight",
    "blk.{i}.attn_v.bias": "model.layers.{i}.self_attn.v_proj.bias",
    "blk.{i}.attn_output.weight": "model.layers.{i}.self_attn.o_proj.weight",
    "blk.{i}.attn_output.bias": "model.layers.{i}.self_attn.o_proj.bias",
    "blk.{i}.ffn_norm.weight": "model.layers.{i}.post_attention_layernorm.weight",
    "blk.{i}.ffn_gate.weight": "model.layers.{i}.mlp.gate_proj.weight",
    "blk.{i}.ffn_gate.bias": "model.layers.{i}.mlp.gate_proj.bias",
    "blk.{i}.ffn_up.weight": "model.layers.{i}.mlp.up_proj.weight",
    "blk.{i}.ffn_up.bias": "model.layers.{i}.mlp.up_proj.bias",
    "blk.{i}.ffn_down.weight": "model.layers.{i}.mlp.down_proj.weight",
    "blk.{i}.ffn_down.bias": "model.layers.{i}.mlp.down_proj.bias",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
GPT2_NAMES = {
    "token_embd.weight": "transformer.wte.weight",
    "position_embd.weight": "transformer.wpe.weight",
    "blk.{i}.attn_norm.weight": "transformer.h.{i}.ln_1.weight",
    "blk.{i}.attn_norm.bias": "transformer.h.{i}.ln_1.bias",
    "blk.{i}.attn_qkv.weight": "transformer.h.{i}.attn.c_attn.weight",
    "blk.{i}.attn_qkv.bias": "transformer.h.{i}.attn.c_attn.bias",
    "blk.{i}.attn_output.weight": "transformer.h.{i}.attn.c_proj.weight",
    "blk.{i}.attn_output.bias": "transformer.h.{i}.attn.c_proj.bias",
    "blk.{i}.ffn_norm.weight": "transformer.h.{i}.ln_2.weight",
    "blk.{i}.ffn_norm.bias": "transformer.h.{i}.ln_2.bias",
    "blk.{i}.ffn_up.weight": "transformer.h.{i}.mlp.c_fc.weight",
    "blk.{i}.ffn_up.bias": "transformer.h.{i}.mlp.c_fc.bias",
    "blk.{i}.ffn_down.weight": "transformer.h.{i}.mlp.c_proj.weight",
    "blk.{i}.ffn_down.bias": "transformer.h.{i}.mlp.c_proj.bias",
    "output_norm.weight": "transformer.ln_f.weight",
    "output_norm.bias": "transformer.ln_f.bias",
    "output.weight": "lm_head.weight",
}
# Metadata that changes no value of a forward pass, or repeats a tensor's shape: ignored without a note.
SILENT = frozenset(
    "vocab_size rope.scaling.finetuned tensor_data_layout expert_used_count expert_group_count "
    "expert_group_used_count".split()
)
# Metadata that changes values in some architectures, each with its neutral value. llama.cpp may ignore one in a file of
# another architecture; here it is refused.
MEANT = {
    "logit_scale": 1, "residual_scale": 1, "embedding_scale": 1, "attention.scale": 0, "attention.output_scale": 1,
    "attention.value_scale": 1, "attn_logit_softcapping": 0, "final_logit_softcapping": 0, "attention.clamp_kqv": 0,
    "attention.max_alibi_bias": 0, "attention.temperature_scale": 0, "use_parallel_residual": False,
    "expert_shared_count": 0, "rope.scaling.alpha": 0, "rope.scaling.yarn_ext_factor": 1,
    "rope.scaling.yarn_attn_factor": 1, "rope.scaling.yarn_log_multiplier": 0,
}  # fmt: skip
UNUSED = ("rope_freqs.weight", "blk.{i}.attn_rot_embd.weight", "blk.{i}.attn_rot_embd")  # see _rope_scaling
YARN_BETAS = (("fast", 32.0), ("slow", 1.0))
LLAMA3_CONTEXT, LLAMA3_LOW, LLAMA3_HIGH = 8192, 1.0, 4.0  # of every Llama 3.x that was published


def hugging_face_view(gguf: GGUF, note: Note = lambda line: None) -> tuple[dict[str, Any], dict[str, LazyTensor]]:
    """config.json and tensors as transformers would have them.

    Rows that llama.cpp permuted are in transformers' order, matrices that it transposed are [in, out]. note(line):
    decisions. Raises UnsupportedModel for another architecture and for metadata that changes values in a way not
    computed here, BadCheckpoint where metadata or tensors are missing or unknown.
    """
    views = {"llama": _llama_view, "gpt2": _gpt2_view}
    architecture, kind = gguf.metadata.get("general.architecture"), gguf.metadata.get("general.type", "model")
    if kind != "model":
        found = f"general.type={kind!r} in {gguf.path.name}"
        raise UnsupportedModel(found, "a whole model", "choose the .gguf file of the model itself")
    wrong = unsound(gguf.metadata)
    if wrong is not None:
        raise damaged(gguf.path, wrong)
    if not isinstance(architecture, str) or architecture not in views:
        found = f"a GGUF file of the architecture {architecture!r}, {gguf.path.name}"
        raise UnsupportedModel(found, f"one of {', '.join(views)}", "choose a model of one of these architectures")
    if "token_embd.weight" not in gguf.tensors:
        raise BadCheckpoint(f"no token_embd.weight in {gguf.path.name}", "an embedding table", "fetch the file again")
    metadata = _Metadata(gguf, architecture)
    config, tensors = views[architecture](gguf, metadata)
    refuse_packed(tensors, gguf.path.name, ending="")
    metadata.finish(note)
    common = {
        "model_type": architecture,
        "vocab_size": gguf.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
    }
    return common | config | _token_ids(gguf.metadata), tensors


def _token_ids(metadata: dict[str, Any]) -> dict[str, Any]:
    """config.json's bos, eos and pad; every id that ends a text is an eos."""
    roles, _ = role_ids(metadata)  # its notes are the tokenizer's
    ends = end_ids(metadata)
    end = None if not ends else ends[0] if len(ends) == 1 else ends
    ids = {"bos_token_id": roles.get("bos_token"), "eos_token_id": end, "pad_token_id": roles.get("pad_token")}
    return {name: id_ for name, id_ in ids.items() if id_ is not None}


class _Metadata:
    """The metadata of one architecture; it records which keys were read, so that none is ignored in silence."""

    def __init__(self, gguf: GGUF, architecture: str) -> None:
        self.gguf, self.prefix = gguf, f"{architecture}."
        self.unread = {key.removeprefix(self.prefix) for key in gguf.metadata if key.startswith(self.prefix)}

    def take(self, key: str, kind: type, default: Any = None) -> Any:
        """A value; of a list with one for each layer, all must be equal. Raises BadCheckpoint for a missing one."""
        self.unread.discard(key)
        key = self.prefix + key
        value = self.gguf.metadata.get(key, default)
        if isinstance(value, list) and value and all(v == value[0] for v in value):
            value = value[0]
        elif isinstance(value, list):
            found = f"{key}={str(value)[:40]} in {self.gguf.path.name}"
            raise UnsupportedModel(found, "one value for all layers", "choose a model with equal layers")
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            found = f"{key}={value!r} in {self.gguf.path.name}"
            raise BadCheckpoint(found, f"a value of type {kind.__name__}", "fetch the file again, or convert it anew")
        return value

    def decimal(self, key: str, default: float | None = None) -> float:
        """A float32's shortest decimal: 1e-05, not 9.999999747e-06."""
        return float(str(np.float32(self.take(key, float, default))))

    def require(self, key: str, kind: type, value: Any) -> None:
        """Refuse every other value."""
        found = self.take(key, kind, value)
        if found != value:
            raise self._refused(key, found, repr(value))

    def finish(self, note: Note) -> None:
        """Refuse unread metadata that would change values; the rest is one note."""
        left = {key: self.gguf.metadata[self.prefix + key] for key in sorted(self.unread - SILENT)}
        for key, neutral in MEANT.items():
            value = left.pop(key, None)
            if value not in (None, 0, neutral):
                raise self._refused(key, value, repr(neutral))
        window, context = left.pop("attention.sliding_window", 0), self.take("context_length", int)
        if window != 0 and (type(window) is not int or window < context):
            raise self._refused("attention.sliding_window", window, f"no window within the context of {context}")
        unread = leftover(left)
        if unread:
            name = self.prefix.removesuffix(".")
            note(f"{self.gguf.path.name} also says {unread}, which no forward pass of a {name} reads")

    def _refused(self, key: str, value: Any, expected: str) -> UnsupportedModel:
        found = f"{self.prefix}{key}={str(value) if isinstance(value, list) else repr(value)} in {self.gguf.path.name}"
        return UnsupportedModel(found, expected, "choose a model that computes as usual there")


def _llama_view(gguf: GGUF, metadata: _Metadata) -> tuple[dict[str, Any], dict[str, LazyTensor]]:
    width, heads = metadata.take("embedding_length", int), metadata.take("attention.head_count", int)
    kv_heads = metadata.take("attention.head_count_kv", int, heads)
    d_head = metadata.take("attention.key_length", int, width // max(heads, 1))
    for key in ("attention.value_length", "rope.dimension_count"):
        metadata.require(key, int, d_head)
    _plain_layers(metadata)
    theta, context = metadata.decimal("rope.freq_base", 10000.0), metadata.take("context_length", int)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": width,
        "num_hidden_layers": _layers(gguf, metadata),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": d_head,
        "intermediate_size": metadata.take("feed_forward_length", int),
        "max_position_embeddings": context,
        "rms_norm_eps": metadata.decimal("attention.layer_norm_rms_epsilon"),
        "rope_theta": theta,
        "hidden_act": "silu",
        "attention_bias": any(re.fullmatch(r"blk\.\d+\.attn_.*\.bias", name) for name in gguf.tensors),
        "mlp_bias": any(re.fullmatch(r"blk\.\d+\.ffn_.*\.bias", name) for name in gguf.tensors),
    }
    scaling = _rope_scaling(gguf, metadata, theta, d_head, context)
    tensors = _renamed(gguf, LLAMA_NAMES, unused=UNUSED)
    for name, tensor in tensors.items():
        if ".q_proj." in name or ".k_proj." in name:
            tensors[name] = _unpermuted(gguf, tensor, d_head)
    return config | ({"rope_scaling": scaling} if scaling else {}), tensors


def _gpt2_view(gguf: GGUF, metadata: _Metadata) -> tuple[dict[str, Any], dict[str, LazyTensor]]:
    heads = metadata.take("attention.head_count", int)
    metadata.require("attention.head_count_kv", int, heads)
    _plain_layers(metadata)
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": metadata.take("embedding_length", int),
        "n_layer": _layers(gguf, metadata),
        "n_head": heads,
        "n_inner": metadata.take("feed_forward_length", int),
        "n_positions": metadata.take("context_length", int),
        "layer_norm_epsilon": metadata.decimal("attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
    }
    tensors = _renamed(gguf, GPT2_NAMES)
    for name, tensor in tensors.items():
        if re.search(r"\.c_(attn|proj|fc)\.weight$", name) and len(tensor.shape) == 2:
            tensors[name] = tensor.rearranged(tensor.shape[::-1], torch.t)
    return config, tensors


def _layers(gguf: GGUF, metadata: _Metadata) -> int:
    """The number of layers, checked against the tensors before that many layers are built."""
    count = metadata.take("block_count", int)
    present = len({match[1] for name in gguf.tensors if (match := re.match(r"blk\.(\d+)\.", name))})
    if count > present:
        found = f"{metadata.prefix}block_count={count} and tensors of {present} layers in {gguf.path.name}"
        raise BadCheckpoint(found, "tensors of every layer", "fetch the file again")
    return count


def _plain_layers(metadata: _Metadata) -> None:
    """Causal attention, and no experts."""
    metadata.require("attention.causal", bool, True)
    metadata.require("expert_count", int, 0)


def _renamed(gguf: GGUF, names: dict[str, str], unused: tuple[str, ...] = ()) -> dict[str, LazyTensor]:
    """The tensors under the table's names. Raises BadCheckpoint for one that is not in the table."""
    tensors: dict[str, LazyTensor] = {}
    for theirs, tensor in gguf.tensors.items():
        layer = re.match(r"blk\.(\d+)\.", theirs)
        pattern = re.sub(r"^blk\.\d+\.", "blk.{i}.", theirs)
        ours = names.get(pattern)
        if ours is not None:
            ours = ours.replace("{i}", layer[1] if layer else "")
            tensors[ours] = tensor.renamed(ours)
        elif pattern not in unused:
            found = f"the tensor {theirs!r} in {gguf.path.name}"
            expected = f"only tensors of a plain {gguf.metadata['general.architecture']}"
            raise BadCheckpoint(found, expected, "choose another model")
    return tensors


def _unpermuted(gguf: GGUF, tensor: LazyTensor, d_head: int) -> LazyTensor:
    """Rows of q or k in transformers' order.

    llama.cpp rotates neighbouring components of a head as a pair, transformers those half a head apart: the file's row
    2j + h of a head is transformers' row h * d_head/2 + j (convert_hf_to_gguf.py, LlamaModel.permute).
    """
    if d_head % 2 or tensor.n_rows % d_head:
        raise damaged(gguf.path, f"{tensor.name!r} with {tensor.n_rows} rows for heads of {d_head}")

    def arrange(rows: Tensor) -> Tensor:
        return rows.reshape(-1, d_head // 2, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)

    return tensor.rearranged(tensor.shape, arrange, group=d_head)


def _rope_scaling(gguf: GGUF, metadata: _Metadata, theta: float, d_head: int, context: int) -> dict[str, Any] | None:
    """config.json's rope_scaling, or None. The keys have llama.cpp's meaning (llama-model.cpp, load_hparams)."""
    kind = metadata.take("rope.scaling.type", str, "linear")  # llama.cpp's own default: linear, by a factor of 1
    factor = metadata.decimal("rope.scaling.factor", metadata.decimal("rope.scale_linear", 1.0)) or 1.0
    original = metadata.take("rope.scaling.original_context_length", int, 0)
    betas = {f"beta_{end}": metadata.decimal(f"rope.scaling.yarn_beta_{end}", default) for end, default in YARN_BETAS}
    if kind not in ("none", "linear", "yarn"):
        found = f"llama.rope.scaling.type={kind!r} in {gguf.path.name}"
        raise UnsupportedModel(found, "none, linear or yarn", "choose a model with one of those")
    if "rope_freqs.weight" in gguf.tensors:
        metadata.require("rope.scaling.factor", float, 1.0)  # transformers has no rule for both at once
        divisors = gguf.tensors["rope_freqs.weight"].read().double()
        return _llama3_scaling(gguf, divisors, theta, d_head, original or LLAMA3_CONTEXT)
    if kind != "yarn" or factor == 1.0:
        metadata.require("rope.scaling.attn_factor", float, 1.0)
        return {"rope_type": "linear", "factor": factor} if kind == "linear" and factor != 1.0 else None
    strength = metadata.decimal("rope.scaling.attn_factor", 1.0)
    scaling = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original or context, **betas}
    if strength != 1.0:  # llama.cpp multiplies it with YaRN's own; transformers' attention_factor is the product
        scaling["attention_factor"] = strength * (0.1 * math.log(factor) + 1.0)
    return scaling


def _llama3_scaling(gguf: GGUF, divisors: Tensor, theta: float, d_head: int, original: int) -> dict[str, Any] | None:
    """The llama3 rule with these divisors of the frequencies, [d_head / 2]: a GGUF has the divisors only.

    Raises UnsupportedModel where they are not those of the published rule.
    """
    factor = float(divisors.max())
    if factor == 1.0 and bool((divisors == 1.0).all()):
        return None
    waves = 2 * math.pi * theta ** (torch.arange(0, d_head, 2, dtype=torch.float64, device="cpu") / d_head)
    blend = ((original / waves - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW)).clamp(0.0, 1.0)
    expected = 1.0 / ((1.0 - blend) / factor + blend)
    if divisors.shape != expected.shape or not torch.allclose(divisors, expected, rtol=1e-4, atol=0.0):
        found = f"rope_freqs.weight in {gguf.path.name} with divisors up to {factor:g}"
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
