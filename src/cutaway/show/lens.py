"""The logit lens of one text: the likeliest next tokens after each block, as data and as a table.

It knows the text of ids; it does not know how a stream is read.
"""

from typing import Any

from cutaway.analysis.logit_lens import Probes, logit_lens, stream_sites
from cutaway.edit.positions import columns as columns_of
from cutaway.lm import LM
from cutaway.show.finding import Listing
from cutaway.show.layout import WIDTH, columns
from cutaway.text.pieces import Tokens
from cutaway.text.table import visible


def finding(lm: LM, tokens: Tokens, position: int, top: int, probes: Probes | None = None) -> Listing:
    """At one position of the first text, from 0, or from -1 backwards: the `top` tokens of each block."""
    sites = stream_sites(lm.config)
    values = lm.trace(tokens, sites)
    at = columns_of(values.tokens, position)[:, 0]
    probs = logit_lens(values, lm.decoder, at, probes)[:, 0].float().softmax(-1)
    best = probs.topk(min(top, probs.shape[-1]))
    rows = []
    for site, ids, shares in zip(sites, best.indices.tolist(), best.values.tolist(), strict=True):
        found = [{"id": i, "text": lm.token_text(i), "probability": p} for i, p in zip(ids, shares, strict=True)]
        rows.append({"site": site, "tokens": found})
    count = len(rows[0]["tokens"])
    drawn = min(count, WIDTH)
    while drawn > 1 and max(map(len, _table(rows, drawn).splitlines())) > WIDTH:
        drawn -= 1
    notes = () if drawn == count else (f"{drawn} of {count} tokens fit in a line; --json has all.",)
    return Listing({"model": lm.name, "position": int(at), "rows": rows}, _table(rows, drawn), notes=notes)


def _table(rows: list[dict[str, Any]], count: int) -> str:
    def cell(token: dict[str, Any]) -> str:
        return f"{visible(token['text'].encode())[:14]} {token['probability']:.0%}"

    table = [[row["site"], *map(cell, row["tokens"][:count])] for row in rows]
    return columns([["after", "next token", *[""] * (count - 1)], *table])
