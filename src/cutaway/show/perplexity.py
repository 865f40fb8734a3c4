"""A perplexity with the protocol that gives it meaning, as data and in words.

It does not know how a token is scored.
"""

from dataclasses import dataclass
from typing import Any

from cutaway.analysis.perplexity import Perplexity
from cutaway.show.finding import Finding


@dataclass(frozen=True, eq=False, repr=False)
class PerplexityFinding(Finding, Perplexity):
    """A Perplexity with what it was measured on. bos: whether the text began with a BOS. quantize: "none" or a mode."""

    quantize: str
    dtype: str
    bos: bool

    __repr__ = Finding.__repr__

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "notes"}

    def records(self) -> list[dict[str, Any]]:
        return [self.to_dict()]

    def __str__(self) -> str:
        how, unscored = "one after another", "first token of each is not scored"
        if self.stride != self.window:
            how = f"one every {self.stride:,} tokens"
            unscored = f"first scores all but its first token, the others their last {self.stride:,} at most"
        several = self.windows > 1
        windows = f"{self.windows:,} window{'s' * several} of {min(self.window, self.tokens):,} tokens"
        return (
            f"{self.model}: {'full precision' if self.quantize == 'none' else self.quantize}, {self.dtype}\n"
            f"perplexity {self.perplexity:.4f}   mean negative log likelihood {self.nll:.5f} nats a token\n"
            f"protocol: {windows}{' at most' * several}, {how}; the\n"
            f"  {unscored};\n"
            f"  {'BOS before the text' if self.bos else 'no BOS'}; {self.scored:,} of {self.tokens:,} tokens scored"
        )
