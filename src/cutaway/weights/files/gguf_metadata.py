"""The metadata of one architecture of a GGUF, read key by key: what changes values is read, or refused by name.

It does not know what any key means in a config.json (gguf_architectures.py).
"""

import re
from typing import Any

import numpy as np

from cutaway.ground.errors import BadCheckpoint, UnsupportedModel
from cutaway.weights.config_reader import leftover
from cutaway.weights.files.gguf_format import GGUF
from cutaway.weights.files.lazy import Note

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
    "rope.scaling.yarn_attn_factor": 1, "rope.scaling.yarn_log_multiplier": 0, "nextn_predict_layers": 0,
}  # fmt: skip
WINDOW = "attention.sliding_window"


class Metadata:
    """The metadata of one architecture; it records which keys were read, so that none is ignored in silence."""

    def __init__(self, gguf: GGUF, architecture: str) -> None:
        self.gguf, self.prefix = gguf, f"{architecture}."
        self.unread = {key.removeprefix(self.prefix) for key in gguf.metadata if key.startswith(self.prefix)}

    def __contains__(self, key: str) -> bool:
        return self.prefix + key in self.gguf.metadata

    def raw(self, key: str) -> Any:
        """A value as it is, a list too; None where there is none."""
        self.unread.discard(key)
        return self.gguf.metadata.get(self.prefix + key)

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
            raise self.refused(key, found, repr(value))

    def layers(self) -> int:
        """The number of layers, checked against the tensors before that many layers are built."""
        count = self.take("block_count", int)
        present = len({match[1] for name in self.gguf.tensors if (match := re.match(r"blk\.(\d+)\.", name))})
        if count > present:
            found = f"{self.prefix}block_count={count} and tensors of {present} layers in {self.gguf.path.name}"
            raise BadCheckpoint(found, "tensors of every layer", "fetch the file again")
        return count

    def finish(self, note: Note) -> None:
        """Refuse unread metadata that would change values; the rest is one note."""
        left = {key: self.gguf.metadata[self.prefix + key] for key in sorted(self.unread - SILENT)}
        for key, neutral in MEANT.items():
            value = left.pop(key, None)
            if value not in (None, 0, neutral):
                raise self.refused(key, value, repr(neutral))
        window, context = left.pop(WINDOW, 0), self.take("context_length", int)
        if window != 0 and (type(window) is not int or window < context):
            raise self.refused(WINDOW, window, f"no window within the context of {context}")
        unread = leftover(left)
        if unread:
            name = self.prefix.removesuffix(".")
            note(f"{self.gguf.path.name} also says {unread}, which no forward pass of a {name} reads")

    def refused(self, key: str, value: Any, expected: str) -> UnsupportedModel:
        """The error for a value that is not computed."""
        found = f"{self.prefix}{key}={str(value) if isinstance(value, list) else repr(value)} in {self.gguf.path.name}"
        return UnsupportedModel(found, expected, "choose a model that computes as usual there")
