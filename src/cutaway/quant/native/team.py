"""Keeping the library's threads together over a whole pass, so that they fetch weights while Python runs.

It does not know what the pass is.
"""

from collections.abc import Callable
from typing import TypeVar

from torch import get_num_threads

from cutaway.quant.native.library import BODY, LIBRARY

Result = TypeVar("Result")


def together(run: Callable[[], Result]) -> Result:
    """run() on this thread, the library's other threads at hand until it returns; what it raises is raised here.

    The threads are those of torch, which meanwhile computes on this thread alone: for a pass whose time goes into the
    library. Without the library, or with one thread, it is run() and nothing else.
    """
    threads = get_num_threads()
    if LIBRARY is None or threads == 1:
        return run()
    results: list[Result] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(run())
        except BaseException as error:  # it cannot pass through the library: it is raised on the other side
            errors.append(error)

    LIBRARY.cutaway_together(BODY(body), threads)
    if errors:
        raise errors[0]
    if not results:  # Ctrl-C between the library and the try
        raise KeyboardInterrupt
    return results[0]
