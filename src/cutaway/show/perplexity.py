"""A perplexity with the protocol that gives it meaning, as data and in words.

It does not know how a token is scored.
"""

from cutaway.analysis.perplexity import Perplexity
from cutaway.lm import LM
from cutaway.quant.explain import mode_of
from cutaway.show.finding import Listing
from cutaway.show.layout import dtype_name


def finding(lm: LM, f: Perplexity, bos: bool) -> Listing:
    """bos: whether the text began with a BOS."""
    quantize = mode_of(lm.decoder) or "none"
    dtype = dtype_name(lm.decoder.get_parameter("blocks.0.ln1.weight"))
    how, unscored = "one after another", "first token of each is not scored"
    if f.stride != f.window:
        how = f"one every {f.stride:,} tokens"
        unscored = f"first scores all but its first token, the others their last {f.stride:,} at most"
    several = f.windows > 1
    windows = f"{f.windows:,} window{'s' * several} of {min(f.window, f.tokens):,} tokens{' at most' * several}"
    text = (
        f"{lm.name}: {'full precision' if quantize == 'none' else quantize}, {dtype}\n"
        f"perplexity {f.perplexity:.4f}   mean negative log likelihood {f.nll:.5f} nats a token\n"
        f"protocol: {windows}, {how}; the\n"
        f"  {unscored};\n"
        f"  {'BOS before the text' if bos else 'no BOS'}; {f.scored:,} of {f.tokens:,} tokens scored"
    )
    return Listing({"model": lm.name, "quantize": quantize, "dtype": dtype, **vars(f), "bos": bos}, text)
