"""What the page may ask: a table of functions, each with the arguments that its signature says.

An ask is a function of (call, *, arguments by name) → Answer, or a generator of Answers, sent as they come:

    @ask("tokens")
    def tokens(call: Call, *, texts: list[str], padding_side: str = "right") -> Answer: ...

The arguments' names, types and defaults are checked from its signature before it runs. It does not know sockets.
"""

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from keyword import iskeyword
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from torch import Tensor

from cutaway.ground.errors import BadArgument
from cutaway.ground.select import nearest


@dataclass(frozen=True)
class Answer:
    """What an ask gives: JSON (numbers that JSON has not are written as words), arrays by name, and the lines of Python
    that give the same, where there are such lines. Arrays are sent as float32, int32 or uint8. last: whether no answer
    follows; a generator says False with all but its last."""

    data: dict[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    python: str = ""
    last: bool = True


Function = Callable[..., "Answer | Iterator[Answer]"]


class Ask(NamedTuple):
    """One row of the table. beside: it reads what is kept and never runs the model, so it does not wait for it."""

    function: Function
    takes: Mapping[str, tuple[Any, Any]]  # each argument's type, and its default (inspect.Parameter.empty: none)
    beside: bool


ASKS: dict[str, Ask] = {}


def ask(name: str, *, beside: bool = False) -> Callable[[Function], Function]:
    """Puts a function into the table. Its first argument is the Call (session.py), the others are by name.

    beside: for what is quick and runs no pass of the model: it is answered in a thread beside the model's worker.
    """

    def registered(function: Function) -> Function:
        hints = get_type_hints(function)
        own = list(inspect.signature(function).parameters.values())[1:]
        takes = {
            each.name.removesuffix("_"): (hints[each.name], each.default) for each in own
        }  # from_ is sent as "from"
        ASKS[name] = Ask(function, takes, beside)
        return function

    return registered


def checked(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an ask. Raises BadArgument for a name or type that it does not take, or one that is missing."""
    takes = ASKS[name].takes
    for argument, value in given.items():
        if argument not in takes:
            expected = f"an argument of {name}, such as {nearest(argument, list(takes))}" if takes else "no argument"
            raise BadArgument(f"the argument {argument[:40]!r} of {name}", expected, "leave it out")
        if not fits(value, takes[argument][0]):
            found = f"{argument} of type {type(value).__name__} in {name}"
            raise BadArgument(found, spelled(takes[argument][0]), f"send {argument} as such")
    missing = [each for each, (_, default) in takes.items() if default is inspect.Parameter.empty and each not in given]
    if missing:
        raise BadArgument(f"{name} without {missing[0]}", spelled(takes[missing[0]][0]), f"send {missing[0]} too")
    return {f"{argument}_" if iskeyword(argument) else argument: value for argument, value in given.items()}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of a type: str, int, float, bool, None, list[…], dict[str, …], or a union."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is types.UnionType:
        return any(fits(value, part) for part in parts)
    if hint is Any or hint is types.NoneType or hint is None:
        return hint is Any or value is None
    if isinstance(value, bool) or kind is bool:  # True is no number
        return isinstance(value, bool) and kind is bool
    if not isinstance(value, (int, float) if kind is float else kind):
        return False
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not parts or all(fits(each, parts[-1]) for each in inner)


def spelled(hint: Any) -> str:
    """A type in words."""
    words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null"}
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is types.UnionType:
        return " or ".join(map(spelled, parts))
    return words.get(kind) or ("a list" if kind is list else "an object")
