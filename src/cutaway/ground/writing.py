"""A file that appears under its name only when it is whole: written under another name, then renamed.

It does not know what is written.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cutaway.ground.errors import BadArgument


@contextmanager
def whole_file(path: Path, *errors: type[Exception]) -> Iterator[Path]:
    """The name to write under; nothing is left there where the writing fails. errors: what a library raises for the
    system's errors. Raises BadArgument for them, and for OSError."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield unfinished
        unfinished.replace(path)
    except (OSError, *errors) as error:
        found = f"{path}, which cannot be written ({getattr(error, 'strerror', None) or error})"
        raise BadArgument(found, "a path that can be written, with space for it", "save it elsewhere") from error
    finally:
        unfinished.unlink(missing_ok=True)
