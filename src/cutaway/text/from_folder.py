"""A tokenizer from a model's local folder, as transformers' AutoTokenizer builds it, without the network.

It does not know GGUF files, nor a text. AutoTokenizer is the general case; where the files provably give the same ids
(or the right ones: tokenizer.model, vocab.json with merges.txt), they are read without importing transformers (3 s).
"""

import json
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from cutaway.ground.errors import NoTokenizer
from cutaway.text import from_merges, from_sentencepiece
from cutaway.text.folder_settings import read_json, read_settings, unreadable
from cutaway.text.parts import NAMES, Parts, of_transformers

# Any of these may hold a vocabulary; vocab.json comes with merges.txt.
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
# Read by transformers only, some with a further package.
OTHER_VOCABULARIES = ("spiece.model", "vocab.txt", "tiktoken.model", "tekken.json")
NEEDED = {  # file → the module that transformers imports for it, and what to install
    "tokenizer.model": ("sentencepiece", "sentencepiece protobuf"),
    "spiece.model": ("sentencepiece", "sentencepiece protobuf"),
    "tiktoken.model": ("tiktoken", "tiktoken"),
    "tekken.json": ("mistral_common", "mistral-common"),
}

# tokenizer.json alone is enough with: a class that uses it unchanged, a model type for which AutoTokenizer obeys that
# class, and a config without a key that changes ids. A test holds these to transformers.
PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
PLAIN_MODEL_TYPES = ("llama", "gpt2", "opt", "gpt_neox")
PLAIN_KEYS = {
    *NAMES,
    "tokenizer_class",
    "backend",
    "chat_template",
    "clean_up_tokenization_spaces",  # for decoding, which never cleans up here
    "model_max_length",
    "model_input_names",
    "padding_side",  # an argument of tokenize here
}
OTHER_FILES = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "additional_chat_templates")
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
TOKENIZER_FILES = (*VOCABULARIES, *OTHER_VOCABULARIES, "merges.txt", *SETTINGS)
WITHOUT_FILES = ("ByT5Tokenizer", "CanineTokenizer")  # bytes, characters
OWN = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}  # SentencePiece's names
RESOLVED = "cutaway_tokenizer.json"  # beside a tokenizer.json that `write_resolved` wrote: its names and template
MOST_PLAIN = 100_000  # transformers may correct the pre-tokenizer of larger vocabularies


def parts_from_folder(folder: Path, model_type: str | None = None) -> Parts:
    """The tokenizer of a local folder. Raises NoTokenizer, which names the missing files or the error in them."""
    return _directly(folder, model_type) or _by_transformers(folder)


def write_resolved(source: Path, folder: Path, model_type: str | None = None) -> None:
    """Write the tokenizer of a folder that only transformers can read as files that are read without it.

    tokenizer.json as transformers resolved it, which it would read likewise, and RESOLVED. Nothing is written for one
    that is read directly, nor for none: opening it says why.
    """
    try:
        if _directly(source, model_type) is not None:
            return
        parts = _by_transformers(source)
    except NoTokenizer:
        return
    if not isinstance(parts.backend, Backend):  # Python code, which reads the files that it came with
        return
    parts.backend.save(str(folder / "tokenizer.json"), pretty=False)
    data = {"names": parts.names, "chat_template": parts.chat_template}
    (folder / RESOLVED).write_text(json.dumps(data, indent=2), encoding="utf-8")


def _directly(folder: Path, model_type: str | None = None) -> Parts | None:
    """The tokenizer where its files are enough; None where they are left to transformers. Raises NoTokenizer."""
    files = vocabularies(folder)
    for name in files:
        _check_no_pointer(folder / name)
    if "tokenizer.json" in files:
        return _resolved(folder) if (folder / RESOLVED).is_file() else _plain(folder)
    settings = read_settings(folder)
    if settings.config.get("auto_map"):
        raise _own_code(folder, settings.config["auto_map"])
    if not files and settings.tokenizer_class not in WITHOUT_FILES:
        expected = f"one of {', '.join(VOCABULARIES)} (with merges.txt)"
        raise NoTokenizer(f"no tokenizer in {folder}", expected, "put the model's tokenizer files there")
    if "tokenizer.model" in files and not _is_tiktoken(folder / "tokenizer.model"):
        if settings.tokenizer_class in from_sentencepiece.CLASSES:
            return from_sentencepiece.parts_from_sentencepiece(folder)
    elif "vocab.json" in files and (folder / "merges.txt").is_file():
        return from_merges.parts_from_merges(folder, model_type)
    return None


def _resolved(folder: Path) -> Parts:
    data = read_json(folder / RESOLVED)
    return Parts(_read(folder / "tokenizer.json"), data.get("names", {}), data.get("chat_template"))


def _plain(folder: Path) -> Parts | None:
    """tokenizer.json read directly; None where transformers might do more than read it."""
    if not (folder / "tokenizer.json").is_file() or any((folder / name).exists() for name in OTHER_FILES):
        return None
    settings, model = read_json(folder / "tokenizer_config.json"), read_json(folder / "config.json")
    names = {role: settings[role] for role in NAMES if settings.get(role) is not None}
    template = settings.get("chat_template")
    certain = (
        settings.get("tokenizer_class") in PLAIN_CLASSES
        and model.get("model_type") in PLAIN_MODEL_TYPES
        and "tokenizer_class" not in model
        and set(settings) <= PLAIN_KEYS
        and isinstance(template, str | None)
        and all(isinstance(token, str) for token in names.values())
    )
    if not certain:
        return None
    backend = _read(folder / "tokenizer.json")
    plain = {str(t.content) for t in backend.get_added_tokens_decoder().values() if _is_plain_special(t)}
    if backend.get_vocab_size() > MOST_PLAIN or not set(names.values()) <= plain:
        return None
    return Parts(backend, names, template or read_settings(folder).chat_template)


def _by_transformers(folder: Path) -> Parts:
    _check_packages(folder)
    from transformers import AutoTokenizer  # here: it takes 3 s to import

    try:
        # trust_remote_code=False: code in a model folder is never run, and the terminal never asks about it
        named = _instead_of_empty(folder)
        loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **named)
    except Exception as error:  # transformers and tokenizers raise any class here, bare Exception too
        raise _refused(folder, error) from error
    parts = of_transformers(loaded)
    # the class looked for other files, or is no tokenizer of texts
    if parts is None or parts.backend.get_vocab_size(with_added_tokens=False) < _least_size(folder):
        raise unreadable(folder, f"{type(loaded).__name__} does not read {' and '.join(vocabularies(folder))}")
    return parts if parts.chat_template else replace(parts, chat_template=read_settings(folder).chat_template)


def _is_plain_special(token: Any) -> bool:
    """Whether this special token is unchanged when it is added again, as transformers adds those with a role."""
    return token.special and not (token.normalized or token.lstrip or token.rstrip or token.single_word)


def _read(path: Path) -> Backend:
    try:
        return Backend.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise unreadable(path.parent, str(error)) from error


def vocabularies(folder: Path) -> list[str]:
    """The files of a folder that may hold a vocabulary."""
    return [name for name in (*VOCABULARIES, *OTHER_VOCABULARIES) if (folder / name).is_file()]


def _instead_of_empty(folder: Path) -> dict[str, str | None]:
    """The model's own tokens for roles that tokenizer_config.json fills with "", which transformers cannot read."""
    config, path = read_json(folder / "tokenizer_config.json"), folder / "tokenizer.json"
    empty = [role for role in NAMES if config.get(role) == ""]
    vocab = _read(path).get_vocab() if empty and path.is_file() else {}
    return {role: token if (token := OWN.get(role)) in vocab else None for role in empty}


def _least_size(folder: Path) -> int:
    """The least number of tokens that a vocabulary from these files has."""
    if not (folder / "tokenizer.json").is_file():
        if (folder / "vocab.json").is_file():
            return max(len(read_json(folder / "vocab.json")), 1)
        if (folder / "vocab.txt").is_file():
            return len(set((folder / "vocab.txt").read_bytes().split(b"\n")) - {b""})
    return 1


def _check_packages(folder: Path) -> None:
    """Raises NoTokenizer where transformers needs a package that is not installed: its own error does not name it."""
    files = vocabularies(folder)
    if "tokenizer.json" in files:
        return
    for name in files:
        module, packages = NEEDED.get(name, ("", ""))
        if name == "tokenizer.model" and _is_tiktoken(folder / name):
            module, packages = NEEDED["tiktoken.model"]
        if module and find_spec(module) is None:
            found = f"{name} in {folder}, which transformers reads with {packages}"
            raise NoTokenizer(found, "these packages, or the model's tokenizer.json", f"run: pip install {packages}")


def _refused(folder: Path, error: Exception) -> NoTokenizer:
    """The error for what transformers cannot load: code of the model's own, missing files, or its own message."""
    auto_map = read_json(folder / "tokenizer_config.json").get("auto_map")
    if auto_map:
        return _own_code(folder, auto_map)
    if "instantiate the backend tokenizer" in str(error):
        found = f"{' and '.join(vocabularies(folder))} in {folder} without a rule of how a text is cut"
        return NoTokenizer(found, "the model's tokenizer.json", "fetch that file too")
    if clash := re.match(r"(\w+) conflicts with the method", str(error)):
        found = f"tokenizer_config.json in {folder} with the key {clash[1]}, on which transformers stops"
        return NoTokenizer(found, "keys that the tokenizer's class takes", f"take {clash[1]} out of that file")
    return unreadable(folder, str(error).strip() or type(error).__name__)


def _own_code(folder: Path, auto_map: object) -> NoTokenizer:
    named = re.findall(r"[\w.-]+\.\w+", str(auto_map))
    found = f"a tokenizer that is Python code of the model's own ({named[0] if named else auto_map}) in {folder}"
    do = "use a GGUF file of this model, or pass ids instead of texts"
    if (folder / "tokenizer.json").is_file():
        do = "take auto_map out of tokenizer_config.json to have tokenizer.json read as it is"
    return NoTokenizer(found, "files alone, since code in a model folder is never run", do)


def _check_no_pointer(path: Path) -> None:
    with path.open("rb") as file:
        pointer = file.read(40).startswith(b"version https://git-lfs")
    if pointer:
        found = f"{path.name} in {path.parent} that is a Git LFS pointer, not the file"
        raise NoTokenizer(found, "the file itself", "run: git lfs pull")


def _is_tiktoken(path: Path) -> bool:
    """Whether tokenizer.model is in tiktoken's format, as Meta's Llama 3: lines of a token in base 64 and its rank."""
    with path.open("rb") as file:
        return re.fullmatch(rb"[A-Za-z0-9+/=]+ \d+\s*", file.readline(200)) is not None
