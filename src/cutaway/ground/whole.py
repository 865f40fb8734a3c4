"""Numbers as arguments: integers of Python, numpy and torch, and real numbers.

It does not know what a number is for: the caller gives its name and its limits. True is no number here; "3" and 1.0 are
no integers.
"""

import math
from collections.abc import Iterable
from numbers import Real
from operator import index
from typing import Any

import torch
from torch import Tensor

from cutaway.ground.errors import BadArgument


def whole(value: Any) -> int | None:
    """A value as an int, by Python's `operator.index`; None where it is no integer."""
    if isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool"):
        return None  # operator.index takes numpy 2.0's True
    try:
        return index(value)
    except (TypeError, RuntimeError):  # no integer, or a tensor on meta, which has no value
        return None


def number(value: Any) -> float:
    """A value, or a tensor without axes, as a float; NaN, which fits no range, where it is no real number."""
    if isinstance(value, Tensor) and value.ndim == 0 and value.dtype is not torch.bool and not value.is_meta:
        return number(value.item())
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan


def require_whole(name: str, value: Any, least: int, do: str) -> int:
    """A value as an int. Raises BadArgument where it is no integer, or below `least`."""
    found = whole(value)
    if found is None or found < least:
        raise BadArgument(f"{name}={value!r}", f"a whole number, {least} or above", do)
    return found


def indexes(name: str, chosen: Any, *, signed: bool = False, distinct: bool = True) -> int | tuple[int, ...] | None:
    """One index, several as a tuple, or None for all. signed: negative ones count from the end. distinct: none twice.

    Raises BadArgument for anything else.
    """
    if chosen is None:
        return None
    many = not isinstance(chosen, str | bytes) and (getattr(chosen, "ndim", 0) > 0 or isinstance(chosen, Iterable))
    single = getattr(chosen, "ndim", 1) == 0 or not many
    found = [whole(chosen)] if single else [whole(each) for each in chosen]
    numbers = tuple(each for each in found if each is not None and (signed or each >= 0))
    if not found or len(numbers) < len(found) or (distinct and len(set(numbers)) < len(numbers)):
        expected = f"one or several {'different ' if distinct else ''}whole numbers" + ("" if signed else " from 0")
        raise BadArgument(f"{name}={chosen!r}", expected, f"pass for example {name}=0")
    return numbers[0] if single else numbers
