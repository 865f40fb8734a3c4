"""How a command ends: every error as one line on stderr and an exit code, and a traceback only with --debug.

It does not know which verb ran.
"""

import errno
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress

import typer

from cutaway.apps.cli.terminal import note
from cutaway.apps.cli.usage import usage
from cutaway.ground.errors import CutawayError

BAD_INPUT, BUG, INTERRUPTED = 2, 1, 130
INTERNAL = re.compile(r" ?\(Triggered internally at [^)]*\)")  # torch's C++ warnings say where they are
# typer gives this class no public name: a command line that no verb understands
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


def guarded(work: Callable[[], int], *, debug: bool, spell: Callable[[str], str] = str) -> int:
    """The exit code of `work`, or of the error that stopped it. Its warnings are lines on stderr.

    spell: rewrites a sentence about Python's arguments in the words of the command line.
    """

    def warned(message: Warning | str, *_: object, **__: object) -> None:
        """A warning of ours or of a library as one line like our notes, without where it is in the code."""
        note(spell(INTERNAL.sub("", " ".join(str(message).split()))))

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = warned
        return _guarded(work, debug, spell)


def _guarded(work: Callable[[], int], debug: bool, spell: Callable[[str], str]) -> int:
    _escape_unencodable()
    try:
        code = work()
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a full disk can still be reported
    except (KeyboardInterrupt, BrokenPipeError) as end:  # no pipe: its reader closed it, which is no error
        code = INTERRUPTED if isinstance(end, KeyboardInterrupt) else 0
        _trace(debug)
    except SystemExit as end:  # rich's answer to a closed pipe
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        code = 0
    except Exception as error:
        line, code = sentence(error)
        _trace(debug)
        _print(spell(line) if code == BAD_INPUT else line)
    _drop_unwritten()
    return code


def sentence(error: Exception) -> tuple[str, int]:
    """An error in one sentence, with its exit code."""
    if isinstance(error, USAGE_ERROR):
        error = CutawayError(*usage(error))
    elif isinstance(error, OSError) and not isinstance(error, CutawayError):
        error = CutawayError(*_refusal(error))
    elif _out_of_memory(error):
        do = "choose a smaller model, a shorter text, or --dtype bfloat16"
        error = CutawayError("too little memory for this run", "memory for the weights and the values", do)
    if isinstance(error, CutawayError):
        return str(error), BAD_INPUT
    first = next(iter(str(error).splitlines()), "no message")
    return f"a bug: {type(error).__name__}: {first}; run it again with --debug, and report what it prints.", BUG


def _refusal(error: OSError) -> tuple[str, str, str]:
    """The system's refusal."""
    where = f" at {error.filename}" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"a full disk{where}", "space to write", "free some space and run it again"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"no file {error.filename}", "one that is there", "correct the path"
    if isinstance(error, IsADirectoryError) and error.filename:
        return f"a folder at {error.filename}", "a file", "name a file in it"
    what = error.strerror or str(error) or type(error).__name__
    do = f"look at {error.filename}" if error.filename else "look at where the output goes"
    return f"{what[:1].lower()}{what[1:]}{where}", "to be allowed to read or write there", do


def _out_of_memory(error: Exception) -> bool:
    # torch's own class is known by its name only, as torch may not be loaded; on a CPU it has none
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def _print(message: str) -> None:
    with suppress(OSError):
        print("cutaway:", *message.splitlines(), file=sys.stderr)


def _trace(debug: bool) -> None:
    if debug:
        with suppress(OSError):
            traceback.print_exc()


def _escape_unencodable() -> None:
    """Write characters that a stream's encoding lacks as escapes, where they would raise."""
    for stream in (sys.stdout, sys.stderr):
        encoding = getattr(stream, "encoding", None) or "utf-8"
        if encoding.lower().replace("-", "") != "utf8" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_unwritten() -> None:
    """Drop output that cannot be written: Python would try again at exit, fail, and print an error."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: it was closed before we began
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
