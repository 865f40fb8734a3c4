"""A transformers model that is in memory, as a checkpoint: its config and tensors take the way that files take.

It reads the object that it is given and imports no transformers; it does not know what becomes of a tensor.
"""

import json
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from weakref import ref

import torch
from torch import Tensor, nn

from cutaway.ground.errors import BadArgument, BadCheckpoint, CutawayError
from cutaway.weights.checkpoint import Checkpoint
from cutaway.weights.config_reader import CONFIG
from cutaway.weights.families import facts_of, family_named
from cutaway.weights.files.lazy import LazyTensor
from cutaway.weights.files.packed import refuse_packed, refuse_packed_config
from cutaway.weights.match import decided_head
from cutaway.weights.stacked import experts_apart
from cutaway.weights.text_part import text_part, text_tensors


@dataclass(frozen=True)
class InMemory(Checkpoint):
    """The checkpoint of a model in memory, which it does not keep there: `del model` frees its weights.

    What reads the weights again (a certificate, the damage of 8 bits) then says that they are gone. settings: its
    generation_config.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    in_memory: ClassVar[bool] = True

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds everything but the tensors' values."""
        return type(self), tuple(getattr(self, each.name) for each in fields(self))

    @cached_property
    def generation(self) -> dict[str, Any]:
        return dict(self.settings)


def of_transformers(model: nn.Module) -> InMemory:
    """The checkpoint of a PreTrainedModel, with the config.json that save_pretrained would write.

    Raises BadArgument for another module, UnsupportedModel and BadCheckpoint as files do, for a family, a value or a
    tensor that the decoder does not compute, and for weights without values (on the meta device).
    """
    if not hasattr(getattr(model, "config", None), "to_json_string"):
        found, do = f"a {type(model).__name__} as a model", "pass the model that from_pretrained gives, or a name"
        raise BadArgument(found, "a transformers model with its config, or a name", do)
    whole = json.loads(model.config.to_json_string()) | {"architectures": [type(model).__name__]}  # pyright: ignore
    config = text_part(whole) or whole
    notes: list[str] = []
    name = named(model)
    try:
        model_type, facts = facts_of(config, notes.append)
        refuse_packed_config(config, in_files=False)
        tensors = experts_apart({n: _lazy(model, n, tensor) for n, tensor in model.state_dict().items()})
        if config is not whole:
            tensors, left_out = text_tensors(tensors, whole["model_type"])
            notes.append(left_out)
        refuse_packed(tensors, name)
        facts = decided_head(config, facts, family_named(model_type), tensors, notes.append)
    except CutawayError as error:
        raise type(error)(error.found.replace(CONFIG, f"the config of {name}"), error.expected, error.do) from error
    notes = [line.replace(CONFIG, "its config") for line in notes]
    generation: Any = getattr(model, "generation_config", None)
    settings = json.loads(generation.to_json_string()) if generation is not None else {}
    return InMemory(Path(name), config, model_type, facts, tensors, None, notes, settings=settings)


def named(model: Any) -> str:
    """ "LlamaForCausalLM in memory", and the name or folder that it came from, where it knows it."""
    source = str(getattr(model.config, "_name_or_path", "") or "").rstrip("/").rpartition("/")[2]
    return f"{type(model).__name__} in memory" + (f" (of {source})" if source else "")


def _lazy(model: nn.Module, name: str, tensor: Tensor) -> LazyTensor:
    if tensor.is_meta:
        found, do = f"{name!r} on the meta device, without values", "load it without device_map and offloading"
        raise BadCheckpoint(found, "a model whose weights are all in memory", do)
    return LazyTensor(name, tuple(tensor.shape), tensor.dtype, Held(model, name))


class Held:
    """fetch of a LazyTensor: a copy of rows of a model's tensor, while the model is there."""

    def __init__(self, model: nn.Module | None, name: str) -> None:
        self.model, self.name = (lambda: None) if model is None else ref(model), name

    def __reduce__(self) -> tuple[Any, ...]:
        return Held, (None, self.name)  # another process has not the model

    def __call__(self, start: int, stop: int) -> Tensor:
        model = self.model()
        if model is None:
            found = f"{self.name!r} of a transformers model that is no longer in memory"
            do = "keep it, or save_pretrained it and load the folder"
            raise BadArgument(found, "the model that this one was made of", do)
        owner, _, leaf = self.name.rpartition(".")
        value: Any = getattr(model.get_submodule(owner), leaf)
        rows = value.detach()[start:stop] if value.ndim else value.detach()
        return rows.to("cpu", copy=True, memory_format=torch.contiguous_format)
