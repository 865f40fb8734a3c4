"""Parts: what every source of a tokenizer (a folder, a GGUF file) provides.

It does not know the source, nor the tokenizer that is made of them.
"""

from dataclasses import dataclass, field
from typing import Any, cast

from tokenizers import Tokenizer as Backend
from tokenizers import processors

from cutaway.text.from_python import PythonBackend

NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")  # the special tokens that have a role


@dataclass(frozen=True)
class Parts:
    """backend: the vocabulary and its rules. names: role → token, of the roles that the model has (see NAMES).
    chat_template: in Jinja. notes: sentences for the user on what was assumed."""

    backend: Backend
    names: dict[str, str] = field(default_factory=dict)
    chat_template: str | None = None
    notes: tuple[str, ...] = ()


def add_ends(backend: Backend, names: dict[str, str], *, bos: bool, eos: bool) -> None:
    """Have the backend put BOS before and EOS after each text, where asked for and the model has them."""
    before = [names["bos_token"]] if bos and "bos_token" in names else []
    after = [names["eos_token"]] if eos and "eos_token" in names else []
    ids = [(token, backend.token_to_id(token)) for token in dict.fromkeys([*before, *after])]
    if ids:
        template = processors.TemplateProcessing(single=[*before, "$A", *after], special_tokens=ids)
        backend.post_processor = template  # type: ignore[assignment]


def of_transformers(loaded: Any) -> Parts | None:
    """The parts of a transformers tokenizer, its backend as it is, or the object itself where it is Python code; None
    for what is no tokenizer."""
    backend = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(backend, Backend):
        if not hasattr(loaded, "convert_tokens_to_string"):
            return None
        backend = cast(Backend, PythonBackend(loaded))
    names = {role: str(getattr(loaded, role)) for role in NAMES if getattr(loaded, role, None) is not None}
    template = getattr(loaded, "chat_template", None)
    return Parts(backend, names, template.get("default") if isinstance(template, dict) else template)
