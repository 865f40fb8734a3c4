"""Asks of a text before any pass: its bytes, pieces and merges, the batch of two texts, and what a run would cost.

It does not know values.
"""

from typing import Any, Literal, cast

from cutaway.apps.server.asks import Answer, ask
from cutaway.apps.server.edits import edits_of
from cutaway.apps.server.runs import lines, tokens_of
from cutaway.apps.server.session import Call
from cutaway.ground.errors import BadArgument
from cutaway.lm import LM
from cutaway.text.pieces import Piece, Tokens
from cutaway.text.table import visible
from cutaway.trace.view import view_plan

NO_BPE = "This vocabulary is no BPE: its pieces were chosen whole, and nothing was merged."


@ask("tokens")
def tokens(call: Call, *, texts: list[str], padding_side: str = "right", special: bool = True) -> Answer:
    """One text or two, as bytes, pieces and merges, and the padded batch."""
    if not 1 <= len(texts) <= 2:
        raise BadArgument(f"{len(texts)} texts", "one or two", "send one or two")
    lm, given = call.lm, [call.text(text) for text in texts]
    side = cast(Literal["right", "left"], padding_side)
    batch = lm.tokenize(given, padding_side=side, add_special_tokens=special)
    if batch.ids.shape[1] > call.limits.tokens:
        found = f"a text of {batch.ids.shape[1]:,} tokens"
        raise BadArgument(found, f"at most {call.limits.tokens:,} on this page", "write a shorter text")
    more = "" if special else ", add_special_tokens=False"
    more += "" if padding_side == "right" else f", padding_side={padding_side!r}"
    return Answer(
        {"texts": [_text(lm, text, row) for text, row in zip(given, batch.pieces or (), strict=True)]},
        {"ids": batch.ids, "mask": batch.mask, "positions": batch.positions},
        lines(call, f"tokens = lm.tokenize({given if len(given) > 1 else given[0]!r}{more})", "print(tokens)"),
    )


@ask("plan")
def plan(call: Call, *, text: str, chat: bool = False, edits: list[dict[str, Any]] | None = None) -> Answer:
    """What a run of the text would keep, in bytes, and about how long it takes: the last run's time for a token."""
    read = tokens_of(call, text, chat)
    cost = view_plan(call.lm.decoder, read, edits_of(call, edits or []))
    each = call.served.shared.get("seconds a token")
    count = read.ids.shape[1]
    data = {"tokens": count, "bytes": cost.bytes, "seconds": None if each is None else each * count}
    data["rows"] = [{"what": kind, "bytes": bytes} for kind, bytes in cost.kinds.items()]
    return Answer(data, python=lines(call, f"print(lm.plan({text!r}, view=True))") if not chat else "")


def pieces(lm: LM, tokens: Tokens, row: int = 0) -> list[dict[str, Any]]:
    """The pieces of one text, as the page takes them."""
    ids = tokens.ids[row].tolist()
    if tokens.pieces is None:
        return [{"id": id, "text": lm.token_text(id), "shown": lm.piece(id), "bytes": [], "start": None, "end": None,
                 "special": False, "padding": False} for id in ids]  # fmt: skip
    return [_piece(piece) for piece in tokens.pieces[row]]


def _piece(piece: Piece) -> dict[str, Any]:
    start, end = piece.span or (None, None)
    return {"id": piece.id, "text": piece.text, "shown": piece.visible, "bytes": list(piece.bytes), "start": start,
            "end": end, "special": piece.special, "padding": piece.padding}  # fmt: skip


def _text(lm: LM, text: str, row: tuple[Piece, ...]) -> dict[str, Any]:
    data: dict[str, Any] = {"bytes": list(text.encode()), "pieces": [_piece(piece) for piece in row]}
    made = lm.tokenizer.merges(row)
    if made is None:
        return data | {"merges": None, "note": NO_BPE}
    shown = {part: visible(lm.tokenizer.spelling.bytes_of(part))
             for each in made[0] for part in (each.left, each.right, each.result)}  # fmt: skip
    merges = [
        {"piece": each.piece, "rank": each.rank}
        | {name: shown[getattr(each, name)] for name in ("left", "right", "result")}
        for each in made[0]
    ]
    whole = f"{made[1]} piece{'s' * (made[1] != 1)} taken whole, which no merges make." if made[1] else ""
    return data | {"merges": merges, "note": whole}
