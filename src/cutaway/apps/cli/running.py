"""What the verbs share while they run: texts from the command line, a model with its progress bar, JSON.

It does not know what is asked of the model, nor how a result is shown.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from cutaway.ground.errors import BadArgument, BadText

if TYPE_CHECKING:
    from cutaway.ground.config import DecoderConfig
    from cutaway.lm import LM
    from cutaway.text.pieces import Tokens

MODES = ("int8", "int8-pooled", "int8-weight")  # quant/int8.py has them too, but costs an import of torch
Report = Callable[[int, int, str], None]  # bytes done, bytes in all, what


def read_texts(texts: Sequence[str]) -> list[str]:
    """The texts, "-" replaced by what stands on standard input. Raises BadText for an empty one, before any work."""
    if list(texts).count("-") > 1:
        raise BadArgument('"-" more than once', "standard input read once", 'pass "-" for one text only')
    read = [_standard_input() if text == "-" else text for text in texts]
    for place, text in enumerate(read):
        if not text:
            which = "an empty text" if len(read) == 1 else f"an empty text (number {place + 1} of {len(read)})"
            raise BadText(which, "at least one character", "write a few words")
    return read


def _standard_input() -> str:
    """Without the newline at its end, which `echo` adds and nobody means."""
    try:
        text = "" if sys.stdin is None else sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"standard input that is no UTF-8 (byte {error.start})"
        raise BadText(found, "text in UTF-8", "convert it first, for example with iconv") from error
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise BadText("an empty standard input", "a text", "pipe one in, or pass it in place of the -")
    return text


def open_model(
    model: str | None,
    *,
    quantize: str | None,
    dtype: str | None,
    device: str | None,
    offline: bool,
    report: Report,
    told: bool = False,
) -> "LM":
    """The model that the options ask for; its notes go to stderr, unless they were told before. Raises as load."""
    require_known(quantize)
    from cutaway.lm import load

    lm = load(model, quantize=quantize, dtype=dtype, device=device, offline=offline, progress=report)
    for line in [] if told else lm.notes:
        note(line)
    return lm


def cut(lm: "LM", texts: Sequence[str], no_special_tokens: bool) -> "Tokens":
    """The texts as tokens on the model's device, with the special tokens that its tokenizer adds, or without."""
    return lm.tokens(lm.tokenize(texts, add_special_tokens=not no_special_tokens))


def require_known(quantize: str | None, modes: Sequence[str] = (*MODES, "none")) -> None:
    """Raises BadArgument for a word that --quantize does not know."""
    if quantize is not None and quantize not in modes:
        expected = f"{', '.join(modes[:-1])} or {modes[-1]}"
        raise BadArgument(f"--quantize {quantize}", expected, "pass one of these, or leave --quantize out")


def find(model: str | None, *, offline: bool, report: Report) -> Path:
    """Where the model's files are, fetched if need be, none of them read. Raises the errors of weights/hub.py."""
    from cutaway.weights.hub import resolve

    return resolve(model, offline=offline, progress=report)


def facts_of(path: Path) -> "DecoderConfig":
    """The model's facts, from its config.json or its GGUF metadata alone: a folder without weights will do."""
    from cutaway.weights.checkpoint import open_checkpoint, read_config
    from cutaway.weights.families import facts_of
    from cutaway.weights.files import is_gguf

    if is_gguf(path):
        return open_checkpoint(path).facts
    return facts_of(read_config(path), lambda note: None)[1]


def token_of(lm: "LM", text: str, option: str) -> int:
    """The id of a text that is one token. Raises BadArgument where it is none or several."""
    ids = lm.tokenizer.tokenize(text, add_special_tokens=False).ids[0].tolist()
    if len(ids) != 1:
        pieces = " ".join(repr(lm.token_text(i)) for i in ids)
        raise BadArgument(f"{option} {text!r}, {len(ids)} tokens: {pieces}", "one token", "pass the first of them")
    return ids[0]


@contextmanager
def busy(what: str) -> Iterator[Report]:
    """A bar on stderr while this lasts, erased at its end; nothing where stderr is no terminal."""
    if not is_terminal(sys.stderr):
        yield lambda done, total, what: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.table import Column

    name = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis"), markup=False)
    with Progress(BarColumn(20), TaskProgressColumn(), name, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total or None, description=what)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody looks at it: it is a terminal, and one that can erase a line."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def note(line: str) -> None:
    """One line on stderr: what should be known and is no error."""
    print(f"cutaway: {line}", file=sys.stderr, flush=True)


def print_json(data: Any) -> None:
    """One line, in ASCII so that any stream takes it; a number that JSON does not have (NaN, infinity) is null."""
    print(json.dumps(_finite(data), allow_nan=False))


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {name: _finite(value) for name, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data
