"""How far a fetch or a load has come, as a call. It does not know who draws it."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""progress(done, total, what): bytes done, bytes in all, and what is being done in a word or two."""
