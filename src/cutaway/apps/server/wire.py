"""Messages and frames: a request read strictly from JSON text, an answer written as one safetensors block.

It knows bytes and names; it does not know sockets, nor what is asked.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from cutaway.ground.errors import BadArgument, CutawayError
from cutaway.ground.whole import whole

MOST_DEEP = 16  # brackets within brackets in a request
LARGEST_ID = 2**53  # a page's numbers are exact up to here


@dataclass(frozen=True)
class Request:
    """One message of a page: its number, what it asks, the channel on which it replaces older ones, the arguments."""

    id: int
    ask: str
    channel: str | None
    arguments: Mapping[str, Any]


def read(text: str) -> Request:
    """A request. Raises BadArgument for what is no JSON object with an id and an ask."""
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadArgument("a message that is no JSON", "a JSON object", "send one request a message") from error
    if not isinstance(data, dict):
        raise BadArgument(f"a message that is a {type(data).__name__}", "a JSON object", "send one request a message")
    if _depth(data) > MOST_DEEP:
        raise BadArgument("a message of too many brackets", f"at most {MOST_DEEP} within each other", "send it flatter")
    number, asked, channel = whole(data.pop("id", None)), data.pop("ask", None), data.pop("channel", None)
    if number is None or not 0 <= number < LARGEST_ID:
        raise BadArgument("a message without a number", '"id": a whole number from 0', "number the requests")
    if not isinstance(asked, str):
        raise BadArgument("a message that asks nothing", '"ask": a name', "say what is asked")
    if channel is not None and not (isinstance(channel, str) and len(channel) <= 64):
        raise BadArgument("a channel that is no short text", "at most 64 characters", "name the channel shorter")
    return Request(number, asked, channel, data)


def frame(id: int, data: Mapping[str, Any], arrays: Mapping[str, Tensor], *, last: bool = True) -> bytes:
    """An answer: u64 length, JSON header, raw little-endian arrays; the JSON of the answer is in the metadata."""
    about = {"id": str(id), "last": json.dumps(last), "answer": dumps(data)}
    return save({name: _sent(value) for name, value in arrays.items()}, about)


def note(id: int | None, **parts: Any) -> str:
    """A short message about a request: its position in the queue, its progress, that it was cancelled."""
    return dumps({"id": id} | parts)


def error(id: int | None, raised: CutawayError) -> str:
    """What was wrong with a request."""
    return note(id, error={"found": raised.found, "expected": raised.expected, "do": raised.do})


def dumps(data: Any) -> str:
    """JSON, with the numbers that it does not have as words."""
    return json.dumps(_worded(data), allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _worded(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else "NaN" if math.isnan(data) else "Infinity" if data > 0 else "-Infinity"
    if isinstance(data, Mapping):
        return {str(name): _worded(value) for name, value in data.items()}
    if isinstance(data, str):
        return data.encode("utf-8", "replace").decode() if not data.isascii() else data  # a lone surrogate is no text
    return [_worded(value) for value in data] if isinstance(data, list | tuple) else data


def _sent(value: Tensor) -> Tensor:
    """The array as it is sent: bytes, int32, or float32."""
    value = value.detach().cpu()
    if value.dtype in (torch.uint8, torch.bool):
        return value.to(torch.uint8).contiguous().clone()
    kind = torch.float32 if value.is_floating_point() else torch.int32
    return value.to(kind).contiguous().clone()  # two arrays of one answer may share memory, which the format refuses


def _no_constant(word: str) -> Any:
    raise ValueError(word)  # NaN and Infinity are not JSON


def _depth(data: Any) -> int:
    """Brackets within brackets, counted no further than MOST_DEEP."""
    level, depth = [data], 0
    while level and depth <= MOST_DEEP:
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level, depth = [part for parts in inner for part in parts], depth + 1
    return depth - 1
