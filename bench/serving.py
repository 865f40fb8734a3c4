"""`cutaway serve` in a process of its own, for what looks at it from outside.

It does not know what is asked of it, nor what is measured.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

MAIN = "import sys; from cutaway.apps.cli.main import main; sys.exit(main())"


@contextmanager
def served() -> Iterator[tuple[str, int]]:
    """Its address, on a free port, and its process; it ends with the context."""
    command = [sys.executable, "-c", MAIN, "serve", "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.terminate()
