"""A certificate, an effect of edits and the reasons of a number as HTML.

It does not know how any of them was found.
"""

from cutaway.analysis.certificate import Certificate
from cutaway.analysis.effect import Effect
from cutaway.explain.why import Why
from cutaway.show.colours import ABOVE, SERIES
from cutaway.show.html.parts import block, details, line, piece, pre, safe, table
from cutaway.show.pictures import Bars
from cutaway.show.svg import svg

TERMS = 12  # of a sum, the largest


def certificate(checked: Certificate) -> str:
    """A claim a row, and whether it holds."""
    rows = []
    for each in checked.lines:
        mark = piece("holds" if each.passed else "FAILS", SERIES[2] if each.passed else ABOVE, 0.4)
        where = safe(each.where) if not each.passed else ""
        allowed = f"{'>' if each.at_least else '≤'} {each.tolerance:.0e}"
        rows.append((mark, safe(each.claim), f"{each.error:.1e}", safe(allowed), where))
    failed = sum(not each.passed for each in checked.lines)
    verdict = f"{failed} of {len(rows)} claims fail" if failed else f"all {len(rows)} claims hold"
    versions = ", ".join(f"{name} {version}" for name, version in checked.versions.items())
    whys = [line(safe(why), faint=True) for why in dict.fromkeys(each.why for each in checked.lines if each.why)]
    title = line(f"<b>{safe(checked.model)}</b>: {verdict}")
    claims = table(("", "claim", "error", "allowed", ""), rows, (2, 3))
    return block(title, claims, *whys, line(safe(versions), faint=True))


def effect(found: Effect) -> str:
    """Of each text: KL, and the next likeliest ids before and after."""
    parts = []
    for row, kl in enumerate(found.kl):
        both = zip(found.before[row], found.after[row], strict=True)
        cells = [tuple(cell for id, p in pair for cell in (str(id), f"{p:.1%}")) for pair in both]
        title = f"text {row + 1} of {len(found.kl)}: next token, KL(without ‖ with the edits) = {kl:.4g} nats"
        parts += [line(safe(title)), table(("without: id", "", "with: id", ""), cells, (0, 1, 2, 3))]
    return block(*parts)


def why(number: Why) -> str:
    """The terms of the number as bars, the largest first, and the text that print shows."""
    largest = sorted(number.terms, key=lambda term: -abs(term.contribution))[:TERMS]
    names = [term.what + (f" · {term.by}" if term.by else "") for term in largest]
    index = ", ".join(map(str, number.index))
    title = f"{number.site}[{index}] = {number.value:.6g}, the largest {len(names)} of {len(number.terms):,} terms"
    picture = Bars(title, names, [term.contribution for term in largest], "what each adds")
    return block(svg(picture), details("as text", pre(str(number)), opened=True))
