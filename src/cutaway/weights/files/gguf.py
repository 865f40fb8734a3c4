"""A GGUF file in Hugging Face's terms: the config.json that it implies, and its tensors under transformers' names.

It does not know the bytes of the format (gguf_format.py), the decoder, nor how a tokenizer is built.
"""

import re
from typing import Any

import torch
from torch import Tensor

from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadCheckpoint, UnsupportedModel
from cutaway.text.gguf_roles import end_ids, role_ids, unsound
from cutaway.weights.families import Family, facts_of, family_named
from cutaway.weights.files.gguf_architectures import ARCHITECTURES, TENSORS, TWO_NORMS, UNUSED, Architecture
from cutaway.weights.files.gguf_config import architecture_of, config_of
from cutaway.weights.files.gguf_format import GGUF, damaged
from cutaway.weights.files.gguf_metadata import Metadata
from cutaway.weights.files.gguf_split import open_gguf
from cutaway.weights.files.lazy import LazyTensor, Note
from cutaway.weights.files.packed import refuse_packed
from cutaway.weights.match import target_of

__all__ = ["GGUF", "hugging_face_view", "open_gguf"]


def hugging_face_view(gguf: GGUF, note: Note = lambda line: None) -> tuple[dict[str, Any], dict[str, LazyTensor]]:
    """config.json and tensors as transformers would have them.

    Rows that llama.cpp permuted are in transformers' order, matrices that it transposed are [in, out], gains that it
    stores whole are without their 1. note(line): decisions. Raises UnsupportedModel for another architecture and for
    metadata that changes values in a way not computed here, BadCheckpoint where metadata or tensors are missing or
    unknown.
    """
    name, kind = gguf.metadata.get("general.architecture"), gguf.metadata.get("general.type", "model")
    if kind != "model":
        found = f"general.type={kind!r} in {gguf.path.name}"
        raise UnsupportedModel(found, "a whole model", "choose the .gguf file of the model itself")
    wrong = unsound(gguf.metadata)
    if wrong is not None:
        raise damaged(gguf.path, wrong)
    if not isinstance(name, str) or name not in ARCHITECTURES:
        found = f"a GGUF file of the architecture {name!r}, {gguf.path.name}"
        raise UnsupportedModel(found, f"one of {', '.join(ARCHITECTURES)}", "choose a model of one of these")
    if "token_embd.weight" not in gguf.tensors:
        raise BadCheckpoint(f"no token_embd.weight in {gguf.path.name}", "an embedding table", "fetch the file again")
    metadata = Metadata(gguf, name)
    table = architecture_of(gguf, metadata)
    family = family_named(table.model_type)
    config = {
        "model_type": table.model_type,
        "architectures": [family.ARCHITECTURES[0]],
        "vocab_size": gguf.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        **config_of(gguf, metadata, table),
        **_token_ids(gguf.metadata),
    }
    _, facts = facts_of(config, lambda line: None, gguf.path.name)
    tensors = _tensors(gguf, table, family, facts)
    refuse_packed(tensors, gguf.path.name, ending="")
    metadata.finish(note)
    return config, tensors


def _token_ids(metadata: dict[str, Any]) -> dict[str, Any]:
    """config.json's bos, eos and pad; every id that ends a text is an eos."""
    roles, _ = role_ids(metadata)  # its notes are the tokenizer's
    ends = end_ids(metadata)
    end = None if not ends else ends[0] if len(ends) == 1 else ends
    ids = {"bos_token_id": roles.get("bos_token"), "eos_token_id": end, "pad_token_id": roles.get("pad_token")}
    return {name: id_ for name, id_ in ids.items() if id_ is not None}


def _tensors(gguf: GGUF, table: Architecture, family: Family, facts: DecoderConfig) -> dict[str, LazyTensor]:
    """The tensors as transformers has them. Raises BadCheckpoint for one that the architecture does not have."""
    two_norms = any(name.endswith(".attn_norm_2.weight") for name in gguf.tensors)
    parameters = TENSORS | (TWO_NORMS if two_norms and table.two_norms is not None else {})
    theirs = _names_of(family)
    tensors: dict[str, LazyTensor] = {}
    for name, tensor in gguf.tensors.items():
        layer = re.match(r"blk\.(\d+)\.", name)
        pattern = re.sub(r"^blk\.\d+\.", "blk.{i}.", name)
        stem, _, leaf = pattern.rpartition(".")
        ours = next((p for one in parameters.get(stem, ()) if (p := one.replace("*", leaf)) in theirs), None)
        if ours is not None:
            for new in _arranged(gguf, tensor, table, theirs[ours], ours, facts):
                full = new.name.replace("{i}", layer[1] if layer else "")
                tensors[full] = new.renamed(full)
        elif pattern not in UNUSED:
            found = f"the tensor {name!r} in {gguf.path.name}"
            expected = f"only tensors of a plain {gguf.metadata['general.architecture']}"
            raise BadCheckpoint(found, expected, "choose another model")
    return tensors


def _names_of(family: Family) -> dict[str, str]:
    """Parameter → transformers' name; a head's has no prefix. `.T` stands before the name: stored as [in, out]."""
    names: dict[str, str] = {}
    for theirs, ours in family.WEIGHTS.items():
        full = theirs if ours.startswith("unembed.head.") else family.PREFIXES[0] + theirs
        names.setdefault(ours.removesuffix(".T"), f".T {full}" if ours.endswith(".T") else full)
    return names


def _arranged(
    gguf: GGUF, tensor: LazyTensor, table: Architecture, theirs: str, ours: str, facts: DecoderConfig
) -> list[LazyTensor]:
    """A tensor in transformers' layout, under its name; one for each head or expert where transformers has it so."""
    name = theirs.removeprefix(".T ")
    if theirs != name and len(tensor.shape) == 2:
        return [tensor.rearranged(tensor.shape[::-1], torch.t).renamed(name)]
    if table.permuted and ours.endswith(("[q]", "[k]")):
        tensor = _unpermuted(gguf, tensor, name, facts.d_head)
    if table.plus_one and name.endswith("norm.weight"):
        tensor = tensor.rearranged(tensor.shape, lambda gain: gain - 1.0, group=1)
    if "{j}" in ours:
        return [tensor.part(j).renamed(name.replace("{j}", str(j))) for j in range(tensor.n_rows)]
    order = target_of(ours, facts).order
    if order is not None and tensor.n_rows == len(order):
        tensor = tensor.permuted(order.argsort())
    return [tensor.renamed(name)]


def _unpermuted(gguf: GGUF, tensor: LazyTensor, name: str, d_head: int) -> LazyTensor:
    """Rows of q or k in transformers' order.

    llama.cpp rotates neighbouring components of a head as a pair, transformers those half a head apart: the file's row
    2j + h of a head is transformers' row h * d_head/2 + j (convert_hf_to_gguf.py, LlamaModel.permute).
    """
    if d_head % 2 or tensor.n_rows % d_head:
        layer = re.search(r"\d+", tensor.name)
        shown = name.replace("{i}", layer[0] if layer else "")
        raise damaged(gguf.path, f"{shown!r} with {tensor.n_rows} rows for heads of {d_head}")

    def arrange(rows: Tensor) -> Tensor:
        return rows.reshape(-1, d_head // 2, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)

    return tensor.rearranged(tensor.shape, arrange, group=d_head)
