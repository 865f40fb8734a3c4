"""Progress of a fetch or a load, as a callback. It does not know how it is shown."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""progress(done, total, what): bytes done, bytes in total, and the current operation in a word or two."""
