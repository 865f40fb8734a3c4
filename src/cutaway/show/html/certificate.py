"""A certificate as HTML: its claims, and whether each holds.

It does not know how a claim is checked.
"""

from cutaway.analysis.certificate import Certificate
from cutaway.show.colours import ABOVE, SERIES
from cutaway.show.html.parts import block, line, piece, safe, table


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
