"""cutaway runs any decoder language model and shows everything it does.

Public names only; each is imported when it is first used, so that `import cutaway` is fast.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cutaway.ground import display

if TYPE_CHECKING:
    from cutaway.edit.edit import Edit
    from cutaway.lm import LM, load
    from cutaway.sample.generation import Generation
    from cutaway.sample.step import Step
    from cutaway.text.pieces import Tokens
    from cutaway.trace.trace import Trace
    from cutaway.weights.opening import quantize

# Torch's OpenMP threads spin while they wait, for milliseconds. Beside busy programs they do so on the processors that
# the others need to go on: a prompt took fifty times as long. libgomp reads this once, as torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "8000")  # 0.1 ms, then they sleep; libgomp: 300,000

__all__ = ["LM", "Edit", "Generation", "Step", "Tokens", "Trace", "load", "quantize"]
__version__ = "0.1.0"

_MODULES = {
    "load": "cutaway.lm",
    "quantize": "cutaway.weights.opening",
    "LM": "cutaway.lm",
    "Edit": "cutaway.edit.edit",
    "Generation": "cutaway.sample.generation",
    "Step": "cutaway.sample.step",
    "Tokens": "cutaway.text.pieces",
    "Trace": "cutaway.trace.trace",
}


def _html(thing: Any) -> str:
    """What a notebook shows of it; what draws is imported when the first is drawn."""
    return import_module("cutaway.show.html.page").html(thing)


display.draw_with(_html)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'cutaway' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
