"""html: what a notebook shows of each object that it is given, found by the name of its class.

It does not know how one is drawn. By name, because some classes stand above this floor.
"""

from collections.abc import Callable
from typing import Any

from cutaway.show.html.generation import generation, step
from cutaway.show.html.model import model
from cutaway.show.html.tokens import tokens
from cutaway.show.html.trace import plan, trace

DRAWINGS: dict[str, Callable[[Any], str]] = {
    "Generation": generation, "LM": model, "Plan": plan, "Step": step, "Tokens": tokens, "Trace": trace,
}  # fmt: skip


def html(thing: Any) -> str:
    """The HTML of an object. Raises StopIteration for one that has none."""
    return next(DRAWINGS[kind.__name__] for kind in type(thing).__mro__ if kind.__name__ in DRAWINGS)(thing)
