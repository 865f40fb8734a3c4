"""What the verbs share: the options that all of them take, the model with a progress bar, texts in, text or JSON out.

It does not know what a verb computes, nor how a result is drawn.
"""

import functools
import gc
import inspect
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cutaway.apps.cli.options import Debug, Device, Dtype, Json, Model, Offline, Quantize, Threads, Unread, UnreadNumber
from cutaway.apps.cli.terminal import is_terminal, note
from cutaway.ground.errors import BadArgument, BadText

if TYPE_CHECKING:
    from cutaway.ground.config import DecoderConfig
    from cutaway.lm import LM
    from cutaway.show.layout import Line

MODES = ("int8", "llm-int8", "llm-int8-pooled")  # quant/formats.py has them too, but costs an import of torch
Report = Callable[[int, int, str], None]  # bytes done, bytes in all, what


@dataclass(frozen=True)
class Options:
    """The options that every verb takes, with the values given; a verb that needs another default has a subclass."""

    modes: ClassVar[Sequence[str]] = (*MODES, "none")  # what --quantize may be

    model: Model = None
    quantize: Quantize = None
    dtype: Dtype = None
    device: Device = None
    threads: Threads = None
    offline: Offline = False
    as_json: Json = False
    debug: Debug = False

    def find(self, report: Report) -> Path:
        """Where the model's files are, fetched if needed, none of them read. Raises the errors of weights/hub.py."""
        from cutaway.weights.hub import resolve

        return resolve(self.model, offline=self.offline, progress=report)

    def config(self, report: Report) -> "DecoderConfig":
        """The model's facts, from its config.json or its GGUF metadata alone: a folder without weights will do."""
        from cutaway.weights.adapter import opened
        from cutaway.weights.opening import config_alone

        path = self.find(report)
        if (path / "config.json").is_file():
            return config_alone(path).facts
        return opened(path, offline=self.offline, progress=report).facts

    def load(self, report: Report, notes: bool = True) -> "LM":
        """The model of the options; with `notes` its notes go to stderr. Raises as lm.load."""
        from cutaway.lm import load

        lm = load(
            self.model, quantize=self.quantize or "auto", dtype=self.dtype, device=self.device, offline=self.offline,
            progress=report, threads=self.threads,
        )  # fmt: skip
        for line in lm.notes if notes else ():
            note(line)
        return lm

    @contextmanager
    def opened(self) -> "Iterator[LM]":
        """The model, with a progress bar until the work on it is done."""
        with busy("starting") as report:
            yield self.load(report)

    def print(self, found: Any, figure: Path | None = None) -> None:
        """Its data as JSON where --json is given, else itself as text, in colours if it has them; notes on stderr.

        figure: the file that its pictures go to first.
        """
        if figure is not None:
            found.save_figure(figure)
            note(f"drew {figure}.")
        if self.as_json:
            print_json(found.to_dict() if hasattr(found, "to_dict") else found.as_data())
            return
        print_lines(found.coloured()) if hasattr(found, "coloured") else print(found)
        for line in getattr(found, "notes", ()):
            note(line)


@dataclass(frozen=True)
class WithoutWeights(Options):
    """Of a verb that reads no weights."""

    quantize: Unread = None
    dtype: Unread = None
    device: Unread = None
    threads: UnreadNumber = None


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """The function as typer reads it: its first argument, an Options, is replaced by the options themselves."""
    first, *own = inspect.signature(function).parameters.values()
    kind: type[Options] = first.annotation
    everywhere = {each.name for each in fields(Options)}
    # the verb's own first, those of every verb last
    shared = sorted(inspect.signature(kind).parameters.values(), key=lambda each: each.name in everywhere)

    @functools.wraps(function)
    def command(**given: Any) -> None:
        options = kind(**{each.name: given.pop(each.name) for each in fields(kind)})
        require_known(options.quantize, kind.modes)
        require_figure(given.get("figure"))
        function(options, **given)

    command.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in (*own, *shared)}
    return command


def require_figure(path: Path | None) -> None:
    """Raises BadArgument, before any work, for a --figure that could not be drawn."""
    if path is not None:
        from cutaway.show.figures import kind_of

        kind_of(path)


def require_known(quantize: str | None, modes: Sequence[str]) -> None:
    """Raises BadArgument for a mode that --quantize does not have."""
    if quantize is not None and quantize not in modes:
        from cutaway.quant.formats import RENAMED

        if new := RENAMED.get(quantize):
            found = f"--quantize {quantize}, the name of an earlier version"
            raise BadArgument(found, new, f"pass --quantize {new}")
        expected = f"{', '.join(modes[:-1])} or {modes[-1]}"
        raise BadArgument(f"--quantize {quantize}", expected, "pass one of these, or leave --quantize out")


def read_texts(texts: Sequence[str]) -> list[str]:
    """The texts, "-" replaced by standard input. Raises BadText for an empty one, before any work."""
    if list(texts).count("-") > 1:
        raise BadArgument('"-" more than once', "standard input read once", 'pass "-" for one text only')
    read = [_standard_input() if text == "-" else text for text in texts]
    for number, text in enumerate(read, 1):
        if not text:
            which = "an empty text" if len(read) == 1 else f"an empty text (number {number} of {len(read)})"
            raise BadText(which, "at least one character", "write a few words")
    return read


def _standard_input() -> str:
    """Without its last newline, which `echo` adds."""
    text = decoded(b"" if sys.stdin is None else sys.stdin.buffer.read(), "standard input")
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise BadText("an empty standard input", "a text", "pipe one in, or pass it in place of the -")
    return text


def decoded(data: bytes, source: str) -> str:
    """The text in UTF-8. Raises BadText where it is none."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"{source} that is no UTF-8 (byte {error.start})"
        raise BadText(found, "text in UTF-8", "convert it first, for example with iconv") from error


@contextmanager
def busy(what: str) -> Iterator[Report]:
    """A progress bar on stderr within the context; none where stderr is no terminal. In it, torch is imported."""
    if not is_terminal(sys.stderr):
        import_torch()
        yield lambda done, total, what: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.table import Column

    name = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis"), markup=False)
    with Progress(BarColumn(20), TaskProgressColumn(), name, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        import_torch()
        yield lambda done, total, what: bar.update(task, completed=done, total=total or None, description=what)


def import_torch() -> None:
    """Import torch without collecting garbage: to search the 250,000 objects that it makes takes 0.1 s, and finds none.

    They live as long as the process, so later collections skip them too.
    """
    if "torch" in sys.modules:
        return
    gc.disable()
    try:
        import_module("torch")
        gc.freeze()
    finally:
        gc.enable()


def print_lines(lines: "Iterable[Line]") -> None:
    """Lines of show/, in colour where the terminal has it."""
    from rich.console import Console
    from rich.text import Text

    from cutaway.show.layout import WIDTH

    console = Console(width=WIDTH, highlight=False)
    for line in lines:
        console.print(Text.assemble(*line))


def print_json(data: Any) -> None:
    """One line, in ASCII so that any stream takes it; a number that JSON does not have (NaN, infinity) is null."""
    print(json.dumps(_finite(data), allow_nan=False))


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {name: _finite(value) for name, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data
