"""Parts: what every source of a tokenizer (a folder, a GGUF file) has to bring, and nothing more.

It does not know where they come from, nor what is done with them.
"""

from dataclasses import dataclass, field

from tokenizers import Tokenizer as Backend

NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")  # the special tokens that have a role


@dataclass(frozen=True)
class Parts:
    """backend: the vocabulary and its rules. names: role → token, of the roles that the model has (see NAMES).
    chat_template: how messages become one prompt, as Jinja. notes: sentences for the user on what was assumed."""

    backend: Backend
    names: dict[str, str] = field(default_factory=dict)
    chat_template: str | None = None
    notes: tuple[str, ...] = ()
