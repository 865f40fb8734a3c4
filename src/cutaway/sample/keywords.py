"""The settings of generation as keywords of a function: its signature and its docstring list them, from Sampling.

It does not know what a setting does, nor the function.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from inspect import Parameter
from textwrap import fill, wrap
from typing import Any, TypedDict, TypeVar, get_type_hints

from cutaway.sample.settings import ABOUT, Sampling

Function = TypeVar("Function", bound=Callable[..., Any])
WIDTH = 76  # help indents by 4
INTRODUCTION = (
    "Settings, in the order in which they act, each with its default and the values it may have. Where you say "
    "nothing, the model's generation_config.json does (lm.sampling); where that says nothing either, the default."
)


class Settings(TypedDict, total=False):
    """The keywords for a type checker: `**settings: Unpack[Settings]`. One left out is not the same as its default,
    since the model's own is then taken."""

    repetition_penalty: float
    do_sample: bool
    temperature: float
    top_k: int | None
    top_p: float
    min_p: float | None
    seed: int | None
    stop_strings: str | Sequence[str]
    max_new_tokens: int | None
    max_length: int | None


def takes_settings(**defaults: Any) -> Callable[[Function], Function]:
    """A decorator: help and inspect show a function's `**settings` as the settings themselves.

    defaults: the function's own, where they are not those of Sampling.
    """

    def described(function: Function) -> Function:
        signature = inspect.signature(function)
        given = [each for each in signature.parameters.values() if each.kind is not Parameter.VAR_KEYWORD]
        first = [each for each in given if each.kind is not Parameter.KEYWORD_ONLY]
        types = get_type_hints(Settings)
        known = {each.name: defaults.get(each.name, each.default) for each in fields(Sampling)}
        settings = [Parameter(n, Parameter.KEYWORD_ONLY, default=v, annotation=types[n]) for n, v in known.items()]
        replaced = signature.replace(parameters=[*first, *settings, *given[len(first) :]])
        function.__signature__ = replaced  # type: ignore[attr-defined]
        paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        own = [fill(" ".join(paragraph.split()), WIDTH) for paragraph in paragraphs]
        function.__doc__ = "\n\n".join([*own, settings_help(**defaults)])
        return function

    return described


def settings_help(**defaults: Any) -> str:
    """Each setting with its default, the values it may have, and its effect."""
    lines = [fill(INTRODUCTION, WIDTH), ""]
    for each in fields(Sampling):
        default, about = defaults.get(each.name, each.default), ABOUT[each.name]
        text = f"{each.name} = {default!r} ({about.limits}): {about.effect}"
        lines += wrap(text, WIDTH, initial_indent="  ", subsequent_indent="      ")
    return "\n".join(lines)
