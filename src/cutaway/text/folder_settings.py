"""What the small files beside a vocabulary say: roles of tokens, added tokens, BOS and EOS, the chat template.

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
    """names: role → token as the files say it. added: id → token of those with an id. special: further special tokens,
    without an id. add_bos, add_eos: as said, else None. said: tokenizer_config.json as it stands."""

    names: dict[str, AddedToken] = field(default_factory=dict)
    added: dict[int, AddedToken] = field(default_factory=dict)
    special: tuple[AddedToken, ...] = ()
    add_bos: bool | None = None
    add_eos: bool | None = None
    chat_template: str | None = None
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def tokenizer_class(self) -> str | None:
        """The class that tokenizer_config.json names, without "Fast"."""
        name = self.said.get("tokenizer_class")
        return name.removesuffix("Fast") if isinstance(name, str) else None


def read_settings(folder: Path) -> Settings:
    """The settings in a folder's files; what no file says is left empty. Raises NoTokenizer for a broken file."""
    try:
        return _settings(folder)
    except (ValueError, TypeError, AttributeError) as error:  # a list where an object was due, an id that is no number
        raise unreadable(folder, f"tokenizer_config.json and what stands beside it: {error}") from error


def _settings(folder: Path) -> Settings:
    said = read_json(folder / "tokenizer_config.json")
    merged = dict(said)
    stored = said.get("added_tokens_decoder")
    if not stored:  # older files: the roles and the added tokens stand in files of their own
        merged |= read_json(folder / "special_tokens_map.json")
    names = {role: token for role in (*NAMES, *OTHER_ROLES) if (token := _token(merged.get(role), special=True))}
    listed = merged.get("additional_special_tokens") or merged.get("extra_special_tokens") or ()
    listed = listed.values() if isinstance(listed, dict) else listed
    special = tuple(token for item in listed if (token := _token(item, special=True)))
    known = {token.content for token in (*names.values(), *special)}
    if stored:
        added = {int(i): token for i, item in stored.items() if (token := _token(item, special=False))}
    else:
        ids = read_json(folder / "added_tokens.json").items()
        added = {int(i): AddedToken(t, normalized=t not in known, special=t in known) for t, i in ids}
    template = _template(folder, said)
    return Settings(names, added, special, said.get("add_bos_token"), said.get("add_eos_token"), template, said)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object, empty where there is no such file. Raises NoTokenizer for a file that is no JSON."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
    except ValueError as error:
        raise unreadable(path.parent, f"{path.name}: {error}") from error
    return data if isinstance(data, dict) else {}


def unreadable(folder: Path, why: str) -> NoTokenizer:
    """The error for files that are there and cannot be read."""
    first = (why.strip() or "no reason given").splitlines()[0].rstrip(".")  # libraries explain over many lines
    found = f"tokenizer files in {folder} that cannot be read ({first})"
    return NoTokenizer(found, "files that fit together", "fetch the model's tokenizer files again")


def add_tokens(backend: Backend, tokens: list[AddedToken]) -> None:
    """Add tokens in order: those of the vocabulary keep their ids, others take the next one."""
    for token in tokens:  # one by one: special and others have calls of their own, and the order gives the ids
        add = backend.add_special_tokens if token.special else backend.add_tokens
        add([token])


def _token(value: Any, special: bool) -> AddedToken | None:
    """A token as the files write it: its text, or a dict with its flags. Empty and absent are None."""
    if isinstance(value, dict) and value.get("content"):
        flags = {flag: bool(value[flag]) for flag in FLAGS if flag in value}
        return AddedToken(value["content"], special=bool(special or value.get("special")), **flags)
    return AddedToken(value, special=special, normalized=False) if isinstance(value, str) and value else None


def _template(folder: Path, said: dict[str, Any]) -> str | None:
    """The default chat template: a file of its own before tokenizer_config.json, which may list several by name."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    for template in (said.get("chat_template"), read_json(folder / "chat_template.json").get("chat_template")):
        named = {t.get("name"): t.get("template") for t in template} if isinstance(template, list) else {}
        found = named.get("default") if named else template
        if isinstance(found, str):
            return found
    return None
