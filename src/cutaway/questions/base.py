"""What all questions share: the model that is asked, the forms that texts take, and one number or text checked.

It does not know any question.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from cutaway.ground.display import Displayed
from cutaway.ground.errors import BadArgument
from cutaway.ground.whole import require_whole, whole
from cutaway.model.decoder import Decoder
from cutaway.sample.generation import Generation
from cutaway.text.pieces import Tokens
from cutaway.text.table import visible
from cutaway.text.tokenizer import Tokenizer
from cutaway.weights.checkpoint import Checkpoint

Texts = str | Sequence[str] | Tensor | Tokens  # ids [T] or [B, T] are a Tensor


class Asked(Displayed):
    """The model that is asked: what LM has, as far as a question needs it."""

    def __init__(self, decoder: Decoder, checkpoint: Checkpoint, name: str) -> None:
        self.decoder, self.checkpoint, self.name = decoder, checkpoint, name

    def tokens(self, texts: Texts, add_special_tokens: bool = True) -> Tokens:
        """Texts as Tokens on the model's device."""
        raise NotImplementedError

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises NoTokenizer."""
        raise NotImplementedError

    def token_text(self, token: int) -> str:
        """What one id looks like as text; empty where ids are all there is."""
        raise NotImplementedError

    def generate(self, texts: Any, **settings: Any) -> Generation:
        """The text that follows."""
        raise NotImplementedError

    def piece(self, token: int) -> str:
        """One id as a piece is shown (text/pieces.py): ␣like, ⟨</s>⟩, ⟨F0·9F⟩; ⟨id·5⟩ without a tokenizer."""
        return visible(self.token_text(token)) or f"⟨id·{token}⟩"

    def _word(self, token: int) -> str:
        """The text of one id; ⟨id·5⟩ where it has none."""
        return self.token_text(token) or f"⟨id·{token}⟩"

    def _shown(self, tokens: Tokens) -> tuple[str, ...]:
        """The text of each token of texts of one length; "" where several texts differ."""
        columns = zip(*tokens.ids.tolist(), strict=True)
        return tuple(self._word(column[0]) if len(set(column)) == 1 else "" for column in columns)


def position_of(given: Any) -> int:
    """A position of a text, from 0, or from -1 back. Raises BadArgument for anything but a whole number."""
    found = whole(given)
    if found is None:
        do = "pass for example position=-1"
        raise BadArgument(f"position={given!r}", "a whole number, from 0, or from -1 backwards", do)
    return found


def top_of(given: Any) -> int:
    """How many are shown. Raises BadArgument below 1."""
    return require_whole("top", given, 1, "pass for example top=5")


def require_progress(given: Any) -> None:
    """Raises BadArgument for what cannot be called with (done, total, what)."""
    if given is not None and not callable(given):
        do = "pass a function, or nothing"
        raise BadArgument(f"progress={given!r}"[:200], "a function of done, total and what", do)


def path_of(name: str, given: Any) -> Path:
    """A file. Raises BadArgument for anything but a path."""
    if not isinstance(given, str | Path) or not Path(given).name:
        raise BadArgument(f"{name}={given!r}", "the path of a file", "pass it as a str or a Path")
    return Path(given)
