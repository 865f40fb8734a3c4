"""What a terminal is shown and a pipe is not: dimmed text, control characters as symbols, notes in grey.

It does not know what is printed.
"""

import os
import sys
from typing import TextIO

# Control characters, shown as symbols: ␛ for an escape. Newlines and tabs stay.
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
CONTROLS |= dict.fromkeys(range(0x7F, 0xA0), 0xFFFD)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether it is a terminal, and one that can erase a line."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def note(line: str) -> None:
    """One line on stderr that is no error, grey on a terminal."""
    print(faint(f"cutaway: {line}", sys.stderr), file=sys.stderr, flush=True)


def faint(text: str, stream: TextIO | None = None) -> str:
    """The text, dimmed where the stream (None: stdout) is a terminal and NO_COLOR is not set."""
    terminal = is_terminal(sys.stdout if stream is None else stream)
    return f"\x1b[2m{text}\x1b[0m" if text and terminal and not os.environ.get("NO_COLOR") else text


def shown(text: str) -> str:
    """A model's text; on a terminal, which would obey them, with its control characters as symbols."""
    return text.translate(CONTROLS) if is_terminal(sys.stdout) else text
