"""Which part of a model wrote a token's logit, as data and as bars.

It knows the text of ids; it does not know how a part's share is computed.
"""

from cutaway.analysis.attribution import attribute, needed_sites
from cutaway.lm import LM
from cutaway.show.finding import Listing
from cutaway.text.pieces import Tokens

BAR = 24  # columns of the largest part's bar


def finding(lm: LM, tokens: Tokens, token: int | None, versus: int | None, by: str, top: int) -> Listing:
    """Of the logit after the first text. token: None for the likeliest. The `top` largest parts are drawn."""
    values = lm.trace(tokens, needed_sites(lm.config, by))
    token = int(values["logits"][0, -1].argmax()) if token is None else token
    found = attribute(values, lm.decoder, token, versus, by)
    parts = list(zip(found.what, found.values.tolist(), strict=True))
    data = {
        "model": lm.name, "token": token, "text": lm.token_text(token), "versus": versus, "logit": found.logit,
        "by": by, "parts": [{"part": what, "gives": gives} for what, gives in parts],
    }  # fmt: skip
    minus = "" if versus is None else f" - logit of {lm.token_text(versus)!r}"
    title = f"logit of {data['text']!r}{minus} = {found.logit:.4g}, the sum of {len(parts):,} parts"
    return Listing(data, "\n".join([title, *_bars(sorted(parts, key=lambda part: -abs(part[1])), top)]))


def _bars(parts: list[tuple[str, float]], top: int) -> list[str]:
    """The parts, largest first, and the sum of those that are not drawn."""
    size = max(abs(parts[0][1]), 1e-30)
    lines = []
    for what, gives in parts[:top]:
        bar = ("█" if gives > 0 else "░") * round(BAR * abs(gives) / size)
        lines.append(f"{what:<36}{gives:>+10.4f}  {bar}".rstrip())
    if len(parts) > top:
        rest = sum(gives for _, gives in parts[top:])
        lines.append(f"sum of {len(parts) - top:,} more".ljust(36) + f"{rest:>+10.4f}")
    return lines
