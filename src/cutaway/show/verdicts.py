"""What is text first: a certificate, and the decomposition of one number, as findings.

Both are drawn by their own classes; it does not know how a claim is checked, nor how a number is decomposed.
"""

from dataclasses import dataclass
from typing import Any

from cutaway.analysis.certificate import Certificate
from cutaway.explain.why import Why
from cutaway.show.finding import Finding
from cutaway.show.pictures import Bars, Picture


@dataclass(frozen=True, eq=False, repr=False)
class CheckFinding(Finding, Certificate):
    """A Certificate as a finding."""

    def _repr_html_(self) -> str:
        from cutaway.show.html.certificate import certificate

        return certificate(self)

    def to_dict(self) -> dict[str, Any]:
        return self.as_data()

    def records(self) -> list[dict[str, Any]]:
        return self.as_data()["lines"]


@dataclass(frozen=True, eq=False, repr=False)
class WhyFinding(Finding, Why):
    """A Why as a finding."""

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in self.as_data().items() if name != "model"}

    def records(self) -> list[dict[str, Any]]:
        return self.as_data()["terms"]

    def pictures(self) -> list[Picture]:
        terms = sorted(self.terms, key=lambda term: -abs(term.contribution))[:20]
        title = f"{self.site}{list(self.index)} = {self.value:.5g}: the largest of {len(self.terms):,} terms"
        return [Bars(title, [term.what for term in terms], [term.contribution for term in terms], "")] if terms else []
