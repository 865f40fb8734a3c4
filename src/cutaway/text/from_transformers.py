"""A tokenizer that is in memory: transformers' own, or the folder of one, as a Tokenizer.

It reads the object that it is given and imports no transformers; it does not know the model.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

from cutaway.ground.errors import NoTokenizer
from cutaway.text.parts import Parts, of_transformers
from cutaway.text.tokenizer import Tokenizer


def tokenizer_of(given: Any) -> Tokenizer:
    """The Tokenizer of a transformers tokenizer (a copy), of a local folder, or the Tokenizer itself.

    Raises NoTokenizer for anything else.
    """
    if isinstance(given, Tokenizer):
        return given
    if isinstance(given, str | Path):
        if not Path(given).is_dir():
            do = "pass that folder, or transformers' AutoTokenizer.from_pretrained of a name"
            raise NoTokenizer(f"tokenizer={str(given)!r}, which is no folder here", "a folder with tokenizer files", do)
        return Tokenizer.from_folder(Path(given))
    parts = of_transformers(given)
    if parts is None:
        found = f"a {type(given).__name__} as tokenizer"
        raise NoTokenizer(found, "a tokenizer of transformers, or a folder", "pass AutoTokenizer's, or a folder")
    return Tokenizer(Parts(deepcopy(parts.backend), parts.names, parts.chat_template))
