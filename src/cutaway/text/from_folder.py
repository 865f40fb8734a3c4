"""A tokenizer from a model's local folder, as transformers' AutoTokenizer builds it, and never by the network.

It does not know GGUF files, nor a text. AutoTokenizer is the way in; where tokenizer.json alone provably gives the
same ids, it is read without importing transformers (3 s).
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from cutaway.ground.errors import NoTokenizer
from cutaway.text.parts import NAMES, Parts

# Any of these may hold a vocabulary; vocab.json goes with merges.txt.
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "tekken.json", "vocab.json")

# Folders with only vocab.json and merges.txt say nothing of special tokens, and AutoTokenizer then takes GPT-2's for
# all: no BOS for OPT, whose models were trained with one. Ids are the config's own, else these.
BARE: dict[str, dict[str, Any]] = {
    "opt": {"bos_token": 2, "eos_token": 2, "unk_token": 2, "pad_token": 1, "add_bos_token": True},
    "gpt2": {"bos_token": 50256, "eos_token": 50256, "unk_token": 50256, "add_bos_token": False},
}

# What makes tokenizer.json alone enough: a class that takes it as it is, a model type for which AutoTokenizer obeys
# that class, and a config of nothing that changes ids. A test holds these to transformers.
PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
PLAIN_MODEL_TYPES = ("llama", "gpt2", "opt", "gpt_neox")
PLAIN_KEYS = {
    *NAMES,
    "tokenizer_class",
    "backend",
    "chat_template",
    "clean_up_tokenization_spaces",  # at decoding, which never cleans up here
    "model_max_length",
    "model_input_names",
    "padding_side",  # an argument of tokenize here
}
OTHER_FILES = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "additional_chat_templates")
MOST_PLAIN = 100_000  # transformers may mend the splitting rule of larger vocabularies


def parts_from_folder(folder: Path) -> Parts:
    """The tokenizer of a local folder. Raises NoTokenizer naming the files looked for, or what was wrong in them."""
    if not any((folder / name).is_file() for name in VOCABULARIES):
        expected = f"one of {', '.join(VOCABULARIES)} (with merges.txt)"
        raise NoTokenizer(f"no tokenizer in {folder}", expected, "put the model's tokenizer files there")
    return _plain(folder) or _by_transformers(folder)


def _plain(folder: Path) -> Parts | None:
    """tokenizer.json read directly, or None where transformers might do more than read it."""
    if not (folder / "tokenizer.json").is_file() or any((folder / name).exists() for name in OTHER_FILES):
        return None
    settings, model = _json(folder / "tokenizer_config.json"), _json(folder / "config.json")
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
    return Parts(backend, names, template)


def _by_transformers(folder: Path) -> Parts:
    from transformers import AutoTokenizer  # 3 s: only where it is needed

    try:
        # trust_remote_code=False: code in a model folder is never run, and never asked about on the terminal
        loaded = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, **_bare_settings(folder)
        )
    except Exception as error:  # transformers and tokenizers raise anything here, down to bare Exception
        raise _unreadable(folder, str(error).split("\n")[0] or type(error).__name__) from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(backend, Backend):
        raise _unreadable(folder, f"{type(loaded).__name__} has no fast tokenizer")
    names = {role: str(getattr(loaded, role)) for role in NAMES if getattr(loaded, role) is not None}
    template = loaded.chat_template
    template = template.get("default") if isinstance(template, dict) else template
    return Parts(backend, names, template)


def _bare_settings(folder: Path) -> dict[str, Any]:
    """What AutoTokenizer has to be told of a folder with only vocab.json and merges.txt."""
    said = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model")
    config = _json(folder / "config.json")
    facts = BARE.get(str(config.get("model_type")))
    if facts is None or any((folder / name).exists() for name in said):
        return {}
    tokens = {id_: token for token, id_ in _json(folder / "vocab.json").items()}
    own = {role: config.get(f"{role}_id") for role in NAMES}
    ids = {role: own[role] if own[role] is not None else facts.get(role) for role in NAMES}
    if own["unk_token"] is None:
        ids["unk_token"] = ids["eos_token"]
    return {role: tokens.get(id_) for role, id_ in ids.items()} | {"add_bos_token": facts["add_bos_token"]}


def _is_plain_special(token: Any) -> bool:
    """Whether adding this special token again, as transformers does with those that have a role, changes nothing."""
    return token.special and not (token.normalized or token.lstrip or token.rstrip or token.single_word)


def _read(path: Path) -> Backend:
    try:
        return Backend.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise _unreadable(path.parent, str(error)) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise _unreadable(path.parent, f"{path.name}: {error}") from error
    return data if isinstance(data, dict) else {}


def _unreadable(folder: Path, why: str) -> NoTokenizer:
    found = f"tokenizer files in {folder} that cannot be read ({why.rstrip('.')})"
    return NoTokenizer(found, "a tokenizer that transformers can load", "fetch the model's tokenizer files again")
