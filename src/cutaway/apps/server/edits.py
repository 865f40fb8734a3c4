"""Edits as a page sends them: the recipe's format, and a patch whose value is that of another run of this reader.

It knows edits as data; it does not apply them. No name of a file is ever read here.
"""

from dataclasses import replace
from typing import Any

from cutaway.apps.server.runs import Run
from cutaway.apps.server.session import Call
from cutaway.edit.edit import Edit
from cutaway.ground.errors import BadArgument

MOST = 200


def edits_of(call: Call, sent: list[Any]) -> list[Edit]:
    """The edits. Raises BadArgument for what is none, for too many, and for a run that is gone."""
    if len(sent) > MOST:
        raise BadArgument(f"{len(sent)} edits", f"at most {MOST}", "make fewer, or name several indexes in one")
    return [_patch(call, data) if isinstance(data, dict) and "from" in data else Edit.from_data(data) for data in sent]


def _patch(call: Call, data: dict[str, Any]) -> Edit:
    """{"site", "op": "patch", "from": run, "position", "from_position", …}: what that run has at from_position."""
    where = {name: value for name, value in data.items() if name not in ("site", "op", "from", "from_position")}
    known = {"block", "head", "expert", "neuron", "source", "position"}
    if data.get("op") != "patch" or not isinstance(data["from"], str) or not where.keys() <= known:
        expected = (
            "a patch with site, from and of position, from_position, block, head, expert, neuron, source what it needs"
        )
        raise BadArgument(str(data)[:80], expected, "send it as such")
    run: Run = call.runs[data["from"]]
    position = where.get("position")
    there = data.get("from_position", position)
    edit = Edit.patch(data.get("site", ""), run.view, **where | {"position": there})
    return edit if position is None else replace(edit, position=position)
