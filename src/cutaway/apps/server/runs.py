"""A run: one watched pass that is kept for a reader, and the lines of Python that give it.

It knows a view, its edits and how a reader wrote them; it does not know how an ask shows them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cutaway.apps.server.session import Call
from cutaway.edit.edit import Edit
from cutaway.ground.errors import BadArgument
from cutaway.text.pieces import Tokens
from cutaway.trace.view import View


@dataclass
class Run:
    """One text's pass. edits: as they were done. full: the same tokens and edits in the other precision, once asked.

    expression: the Python that gives the view. sources: that of each run which its edits take values from, by the name
    by which the expression calls it; one comes after those that it needs itself.
    """

    view: View
    text: str
    chat: bool
    edits: list[Edit]
    expression: str
    sources: dict[str, str] = field(default_factory=dict)
    full: View | None = field(default=None, repr=False)

    def python(self, name: str = "view") -> list[str]:
        """Lines that give the view by that name."""
        return assigned(self.sources | {name: self.expression})

    @property
    def tokens(self) -> Tokens:
        return self.view.tokens

    def logits_at(self, position: int) -> Float[Tensor, "V"]:
        """The logits after one token. Raises BadArgument for a position that the text has not."""
        return self.view.logits_at(self.position(position))[0]

    def position(self, given: int) -> int:
        """A position of the text, from 0. Raises BadArgument for one that it has not."""
        count = self.tokens.ids.shape[1]
        if not -count <= given < count:
            raise BadArgument(f"position {given}", f"0 to {count - 1}", "choose a token of the text")
        return given % count

    @cached_property
    def nbytes(self) -> int:
        """What is kept of the pass, in bytes."""
        return 0 if self.view.plan is None else self.view.plan.bytes

    @property
    def kept_bytes(self) -> int:
        """All that is kept: the pass and its Python."""
        return self.nbytes + sum(map(len, self.python()))


def tokens_of(call: Call, text: str, chat: bool) -> Tokens:
    """The tokens of a reader's text. Raises BadText and BadArgument for one that is empty or too long."""
    text = call.text(text)
    return within(call, call.lm.chat_prompt(text) if chat else call.lm.tokens(text))


def within(call: Call, tokens: Tokens) -> Tokens:
    """The tokens. Raises BadArgument for too many."""
    count, most = tokens.ids.shape[1], min(call.limits.tokens, call.lm.config.n_positions)
    if count > most:
        raise BadArgument(f"a text of {count:,} tokens", f"at most {most:,} on this page", "write a shorter text")
    return tokens


def spelled(text: str, chat: bool) -> str:
    """A text as Python gives it to lm's methods."""
    return f"lm.chat_prompt({text!r})" if chat else repr(text)


def assigned(expressions: Mapping[str, str]) -> list[str]:
    """Lines that give each expression its name."""
    return [f"{name} = {expression}" for name, expression in expressions.items()]


def python_of(call: Call, text: str, chat: bool, data: list[dict[str, Any]] | None) -> tuple[str, dict[str, str]]:
    """The expression that gives a run's view, and its sources."""
    edits, sources = edits_python(call, data or [])
    return f"lm.view({spelled(text, chat)}{edits})", sources


def edits_python(call: Call, data: list[dict[str, Any]]) -> tuple[str, dict[str, str]]:
    """The argument `edits` as Python spells it, empty where there are none, and the runs that it takes values from.

    A run is called by its name: its expression within that of each run that rests on it would double their length.
    """
    sources: dict[str, str] = {}
    for name in dict.fromkeys(str(each["from"]) for each in data if "from" in each):
        kept: Run = call.runs[name]
        sources |= kept.sources | {name: kept.expression}
    edits = ", ".join(map(_edit_python, data))
    return f", edits=[{edits}]" if edits else "", sources


def _edit_python(data: dict[str, Any]) -> str:
    if "from" not in data:
        return f"Edit.from_data({data!r})"
    where = {name: value for name, value in data.items() if name not in ("site", "op", "from", "from_position")}
    taken = where | ({"position": data["from_position"]} if "from_position" in data else {})
    patch = f"Edit.patch({', '.join([repr(data['site']), data['from'], *_arguments(taken)])})"
    return patch if taken == where else f"replace({patch}, position={where.get('position')!r})"


def lines(call: Call, *expressions: str) -> str:
    """Python that can be pasted: imports, the model, and these lines."""
    body = [each for each in expressions if not each.startswith(("from ", "import "))]
    imports = ["import cutaway", *(each for each in expressions if each not in body)]
    imports += ["from dataclasses import replace"] if any("replace(" in each for each in body) else []
    imports += ["from cutaway import Edit"] if any("Edit." in each for each in body) else []
    return "\n".join([*imports, "", f"lm = cutaway.load({call.served.loaded})", *body])


def _arguments(values: dict[str, Any]) -> list[str]:
    return [f"{name}={value!r}" for name, value in values.items()]
