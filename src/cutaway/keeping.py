"""Opening, copying and sending a model: a pickle holds its name and the arguments of its load, where these say it all.

It knows files and arguments; it does not know what the model is asked.
"""

import copy
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from cutaway.model.decoder import Decoder
from cutaway.questions import Questions
from cutaway.text.from_transformers import tokenizer_of
from cutaway.weights.opening import open_model

NOT_KEPT = ("progress", "threads")  # of this process


class Keeping(Questions):
    """What LM inherits: `opened`, and how it pickles."""

    arguments: dict[str, Any] | None = None  # of the load; None: it came by another way, and pickles its weights
    loaded: list[Any] | None = None  # the fingerprint of the decoder as it was then

    @classmethod
    def opened(cls, model: str | Path | nn.Module | None, *, tokenizer: Any = None, **arguments: Any) -> Self:
        """The model of that name, or a transformers model. Arguments: lm.py: load."""
        given = None if tokenizer is None else tokenizer_of(tokenizer)  # a wrong one is refused before anything is read
        with torch.inference_mode(False):  # whatever the caller's: gradients may be asked of these weights later
            lm = cls(*open_model(model, **arguments))
        if given is not None:
            vars(lm)["tokenizer"] = given  # in place of the files' own
        if isinstance(model, nn.Module):
            return lm
        kept = {name: value for name, value in arguments.items() if name not in NOT_KEPT}
        lm.arguments = kept | {"tokenizer": given, "model": model, "named": model is None or not Path(model).exists()}
        lm.loaded = fingerprint(lm.decoder)
        return lm

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Opened again from its files, unless its weights, modules or hooks are no longer those of the load (a write
        through `.data` is not seen): then the pickle holds the weights."""
        if self.arguments is None or fingerprint(self.decoder) != self.loaded:
            return super().__reduce_ex__(protocol)
        path = (self.checkpoint.adapter or self.checkpoint.path).resolve()
        notes = list(self.checkpoint.notes)
        return _opened_again, (type(self), self.arguments, path, self.name, notes)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """With weights of its own, in memory."""
        again = memo[id(self)] = object.__new__(type(self))
        vars(again).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
        return again

    def __copy__(self) -> Self:
        again = object.__new__(type(self))
        vars(again).update(vars(self))
        return again


def fingerprint(decoder: Decoder) -> list[Any]:
    """Equal as long as a decoder holds the same modules and tensors, unwritten, without hooks."""
    modules = list(decoder.modules())
    tensors = [*decoder.parameters(), *decoder.buffers()]
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)
    return [
        *((id(tensor), tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors),
        *map(type, modules),
        hooks,
    ]


def _opened_again(kind: type[Keeping], arguments: dict[str, Any], path: Path, name: str, notes: list[str]) -> Keeping:
    """From the same path; a model that was named, not a path, by its name where its files lie elsewhere here."""
    by_name = arguments["named"] and not path.exists()
    given = {each: value for each, value in arguments.items() if each not in ("model", "named")}
    lm = kind.opened(arguments["model"] if by_name else path, **given)
    lm.arguments, lm.name = arguments, name
    lm.checkpoint.notes[:] = notes
    return lm
