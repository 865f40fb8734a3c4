"""The C library holds on to the memory that one layer frees and the next allocates again.

By default it gives megabytes back to the system at once, and every page that comes again is cleared first: 24,000 pages
and a third of the time of a 128-token prompt on SmolLM2. It does not know what the memory is for.
"""

import ctypes
from contextlib import suppress

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # malloc.h
MAPPED = 32 << 20  # bytes, from which on memory is the system's, and goes back when freed: the most that glibc takes
FREE = 128 << 20  # bytes that may be free


def hold_freed_memory() -> None:
    """For the whole process, as there is one allocator; nothing where the C library is not glibc."""
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MMAP_THRESHOLD, MAPPED)
        mallopt(TRIM_THRESHOLD, FREE)
