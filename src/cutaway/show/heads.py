"""What each attention head attends to: the scores of every head as data, the highest as a table.

It does not know how a score is computed.
"""

from cutaway.analysis.heads import pattern_sites, score_heads
from cutaway.lm import LM
from cutaway.show.finding import Listing
from cutaway.show.layout import columns
from cutaway.text.pieces import Tokens

UNREPEATED = "no induction: it needs a text whose second half is its first (or no text)"


def finding(lm: LM, tokens: Tokens, top: int, on: str = "") -> Listing:
    """The `top` highest of each score. on: the tokens in words, where they are not texts."""
    scores = score_heads(lm.trace(tokens, pattern_sites(lm.config)))
    on = on or ("the text" if len(tokens.ids) == 1 else f"{len(tokens.ids)} texts")
    rows = [
        (name, *(f"{layer}.{head} {score:.3f}" for layer, head, score in scores.top(name, top)))
        for name in scores.by_name
    ]
    title = f"block.head and score, the {top} highest of each, on {on}"
    lines = [title, columns(rows), "entropy: of the attention weights, in nats"]
    lines += [] if "induction" in scores.by_name else [UNREPEATED]
    data = {"model": lm.name, "scores": {name: of.tolist() for name, of in scores.by_name.items()}}
    return Listing(data, "\n".join(lines))
