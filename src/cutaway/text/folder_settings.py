"""The settings in the small files beside a vocabulary: roles of tokens, added tokens, BOS and EOS, the chat template.

It reads tokenizer_config.json, special_tokens_map.json, added_tokens.json and chat templates as transformers reads
them, and knows no vocabulary.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from cutaway.ground.errors import NoTokenizer
from cutaway.text.parts import NAMES

FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
OTHER_ROLES = ("sep_token", "cls_token", "mask_token")  # special too, though no decoder needs them


@dataclass(frozen=True)
class Settings:
    """names: role → token. added: id → added token. special: further special tokens, without an id. add_bos, add_eos:
    None where no file sets them. config: tokenizer_config.json itself."""

    names: dict[str, AddedToken] = field(default_factory=dict)
    added: dict[int, AddedToken] = field(default_factory=dict)
    special: tuple[AddedToken, ...] = ()
    add_bos: bool | None = None
    add_eos: bool | None = None
    chat_template: str | None = None
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def tokenizer_class(self) -> str | None:
        """The class that tokenizer_config.json names, without "Fast"."""
        name = self.config.get("tokenizer_class")
        return name.removesuffix("Fast") if isinstance(name, str) else None


def read_settings(folder: Path) -> Settings:
    """The settings in a folder's files, empty where no file has them. Raises NoTokenizer for a broken file."""
    try:
        return _settings(folder)
    except (ValueError, TypeError, AttributeError) as error:  # a list where an object was due, an id that is no number
        raise unreadable(folder, f"tokenizer_config.json and what stands beside it: {error}") from error


def _settings(folder: Path) -> Settings:
    config = read_json(folder / "tokenizer_config.json")
    merged = dict(config)
    stored = config.get("added_tokens_decoder")
    if not stored:  # older files: the roles and the added tokens are in files of their own
        merged |= read_json(folder / "special_tokens_map.json")
    names = {role: token for role in (*NAMES, *OTHER_ROLES) if (token := _token(merged.get(role), special=True))}
    listed = merged.get("additional_special_tokens") or merged.get("extra_special_tokens") or ()
    listed = listed.values() if isinstance(listed, dict) else listed
    special = tuple(token for item in listed if (token := _token(item, special=True)))
    marked = {token.content for token in (*names.values(), *special)}
    if stored:
        added = {int(i): token for i, item in stored.items() if (token := _token(item, special=False))}
    else:
        ids = read_json(folder / "added_tokens.json").items()
        added = {int(i): AddedToken(t, normalized=t not in marked, special=t in marked) for t, i in ids}
    template = _template(folder, config)
    return Settings(names, added, special, config.get("add_bos_token"), config.get("add_eos_token"), template, config)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object, empty where there is no such file. Raises NoTokenizer for a file that is no JSON."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
    except ValueError as error:
        raise unreadable(path.parent, f"{path.name}: {error}") from error
    return data if isinstance(data, dict) else {}


def unreadable(folder: Path, why: str) -> NoTokenizer:
    """The error for files that cannot be read."""
    first = (why.strip() or "no reason given").splitlines()[0].rstrip(".")  # libraries explain over many lines
    found = f"tokenizer files in {folder} that cannot be read ({first})"
    return NoTokenizer(found, "files that fit together", "fetch the model's tokenizer files again")


def add_tokens(backend: Backend, tokens: list[AddedToken]) -> None:
    """Add tokens in order: those in the vocabulary keep their ids, the others get the next ones."""
    for token in tokens:  # one by one: the order gives the ids, and special tokens are added by another call
        add = backend.add_special_tokens if token.special else backend.add_tokens
        add([token])


def _token(value: Any, special: bool) -> AddedToken | None:
    """A token from its JSON: its text, or a dict with its flags. None for an empty or absent one."""
    if isinstance(value, dict) and value.get("content"):
        flags = {flag: bool(value[flag]) for flag in FLAGS if flag in value}
        return AddedToken(value["content"], special=bool(special or value.get("special")), **flags)
    return AddedToken(value, special=special, normalized=False) if isinstance(value, str) and value else None


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    """The default chat template: chat_template.jinja before tokenizer_config.json, which may list several by name."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    for template in (config.get("chat_template"), read_json(folder / "chat_template.json").get("chat_template")):
        named = {t.get("name"): t.get("template") for t in template} if isinstance(template, list) else {}
        found = named.get("default") if named else template
        if isinstance(found, str):
            return found
    return None
