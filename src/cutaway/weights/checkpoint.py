"""Checkpoint: a model's config, facts and tensors; of the tensors only names and shapes are read.

It does not know the decoder, nor what a tensor becomes.
"""

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadCheckpoint
from cutaway.text.from_folder import vocabularies
from cutaway.weights.config_reader import CONFIG
from cutaway.weights.families import Family, facts_of, family_named
from cutaway.weights.files import SAVED, ignore_note, is_gguf, model_path, open_folder
from cutaway.weights.files.lazy import LazyTensor, Note
from cutaway.weights.files.packed import refuse_packed_config
from cutaway.weights.files.recognize import no_model, refuse_disguised
from cutaway.weights.match import decided_head
from cutaway.weights.stacked import experts_apart
from cutaway.weights.text_part import text_part, text_tensors


@dataclass(frozen=True)
class Checkpoint:
    """A model's config.json, our facts of it, and its tensors by checkpoint name."""

    path: Path
    config: dict[str, Any]
    model_type: str
    facts: DecoderConfig
    tensors: dict[str, LazyTensor]
    gguf_metadata: dict[str, Any] | None = None  # the tokenizer's arrays, where the file is a GGUF
    notes: list[str] = field(default_factory=list)  # decisions made while opening, a sentence each
    adapter: Path | None = None  # the folder of the LoRA adapter that is merged into the tensors
    in_memory: ClassVar[bool] = False  # whether there are no files

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds path and notes; unpickling opens the files again."""
        return _open_again, (self.path.resolve(), self.notes)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Checkpoint":
        return replace(self, notes=list(self.notes))  # the rest is immutable

    @property
    def tokenizer_path(self) -> Path:
        """The folder or file of the tokenizer: an adapter may bring its own."""
        return self.adapter if self.adapter is not None and vocabularies(self.adapter) else self.path

    @property
    def source(self) -> str:
        """The file that the facts are from, as errors name it."""
        return CONFIG if self.gguf_metadata is None else self.path.name

    @property
    def stored(self) -> str | None:
        """The storage type of most of a GGUF's weights, by llama.cpp's name (Q4_K_M); else None."""
        number = (self.gguf_metadata or {}).get("general.file_type")
        if number is None:
            return None
        from gguf import LlamaFileType  # here: it takes 0.1 s to import

        return {kind.value: kind.name.removeprefix("MOSTLY_") for kind in LlamaFileType}.get(number)

    @property
    def family(self) -> Family:
        """The family that reads it."""
        return family_named(self.model_type)

    @cached_property
    def generation(self) -> dict[str, Any]:
        """The model's generation_config.json; empty where it has none."""
        path = self.path / "generation_config.json"
        return read_json(path) if path.is_file() else {}

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a text: generation_config.json's, else config.json's."""
        value = self._id("eos_token_id")
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(type(id_) is not int for id_ in ids):
            found = f"eos_token_id={value!r} in generation_config.json or {self.source}"
            raise BadCheckpoint(found, "an id or a list of ids", "use the model's own files")
        return frozenset(ids)

    @property
    def pad_id(self) -> int | None:
        """The padding id, where generation_config.json or config.json names one."""
        return self._one_id("pad_token_id")

    @property
    def bos_id(self) -> int | None:
        """The id that begins a text, where generation_config.json or config.json names one."""
        return self._one_id("bos_token_id")

    def _one_id(self, name: str) -> int | None:
        value = self._id(name)
        return value if isinstance(value, int) and value >= 0 else None

    def _id(self, name: str) -> Any:
        value = self.generation.get(name)
        return self.config.get(name) if value is None else value


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a Hugging Face folder or a .gguf file; of the tensors only names and shapes are read."""
    notes: list[str] = []
    path = model_path(path, notes.append)
    if is_gguf(path):
        from cutaway.weights.files.gguf import hugging_face_view, open_gguf

        gguf = open_gguf(path)
        config, tensors = hugging_face_view(gguf, notes.append)
        name, facts = facts_of(config, notes.append, path.name)
        facts = decided_head(config, facts, family_named(name), tensors, notes.append)
        return Checkpoint(path, config, name, facts, tensors, gguf.metadata, notes)
    whole = _whole_config(path)
    config = text_part(whole) or whole
    if (path / SAVED).is_file():  # save.py opens its tensors; its manifest has the source's notes
        name, facts = facts_of(config, lambda line: None)
        return Checkpoint(path, config, name, facts, {}, None, list(read_json(path / SAVED).get("notes", [])))
    name, facts = facts_of(config, notes.append)
    refuse_packed_config(config, transposed=any(ours.endswith(".T") for ours in family_named(name).WEIGHTS.values()))
    quantization = config.get("quantization_config")
    tensors = experts_apart(open_folder(path, notes.append, whole.get("transformers_weights"), quantization))
    if config is not whole:
        tensors, left_out = text_tensors(tensors, whole["model_type"])
        notes.append(left_out)
    facts = decided_head(config, facts, family_named(name), tensors, notes.append)
    return Checkpoint(path, config, name, facts, tensors, None, notes)


def _open_again(path: Path, notes: list[str]) -> Checkpoint:
    return replace(open_checkpoint(path), notes=list(notes))


def read_config(folder: Path, note: Note = ignore_note) -> dict[str, Any]:
    """The config.json of a model's folder; of a multimodal one its text model's, with a note.

    Raises ModelNotFound where there is none, BadCheckpoint for no JSON.
    """
    whole = _whole_config(folder)
    inner = text_part(whole)
    if inner is not None:
        note(f"{whole['model_type']}: its text model alone")
    return inner or whole


def _whole_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise no_model(folder, "config.json")
    return read_json(folder / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises BadCheckpoint where it is none."""
    refuse_disguised(path, "a JSON object")
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{path.name} that is no JSON ({error})", "a JSON object", "fetch it again") from error
    if not isinstance(data, dict):
        raise BadCheckpoint(f"{path.name} that holds no JSON object", "a JSON object", "fetch it again")
    return data
