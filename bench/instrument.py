"""Claim: in 8 bits the model is an instrument. What does nothing moves no bit; what moves a value by 1e-6 moves the
logits by less than KL 1e-6; a text is the same alone, in a batch, recorded while it is written or read at once; and
causal effects are those of full precision.

On SmolLM2, in every mode asked for: every site edited by itself; 32 prompts of unequal lengths, 64 greedy tokens each,
alone and in one batch padded on the left; every site of a generation against one pass over the same ids; patching all
heads of four pairs of prompts against the same in full precision.
"""

import argparse
import warnings
from collections.abc import Sequence
from pydoc_data.topics import topics

import torch
from contest import yes
from models import Models

import cutaway
from cutaway import Edit, Tokens
from cutaway.analysis.compare import kl_divergence
from cutaway.analysis.metric import logit_difference
from cutaway.analysis.patching import sweep
from measure import report

PROMPT = "When Mary and John went to the store, John gave a drink to"
PAIRS = (  # of Wang et al. 2022 (arXiv 2211.00593): the names of the second clause are exchanged
    ("When Mary and John went to the store,{} gave a drink to", " John", " Mary"),
    ("When Tom and James went to the park,{} gave the ball to", " James", " Tom"),
    ("When Dan and Sarah went to the shops,{} gave an apple to", " Sarah", " Dan"),
    ("After Martin and Amy went to the park,{} gave a drink to", " Amy", " Martin"),
)
TIE = 1e-4  # logits nearer than this are a tie: either token may come out


def noise(lm: cutaway.LM) -> tuple[int, int, float, str]:
    """Sites at which an edit that does nothing moves a bit, of how many; the largest KL of 1 + 1e-6, and its site."""
    tokens = lm.tokenize(PROMPT)
    before = lm.trace(tokens, "logits")["logits"]
    moved, worst, where = 0, 0.0, ""
    for site in lm.sites:
        nothing = lm.trace(tokens, "logits", edits=[Edit.scale(site, 1.0)])["logits"]
        moved += not torch.equal(nothing, before)
        little = lm.trace(tokens, "logits", edits=[Edit.scale(site, 1 + 1e-6)])["logits"]
        kl = float(kl_divergence(before[0], little[0]).max())
        if kl > worst:
            worst, where = kl, site
    return moved, len(lm.sites), worst, where


def batches(lm: cutaway.LM, count: int = 32, new: int = 64) -> tuple[int, int]:
    """Prompts whose text alone and in a padded batch is the same, and those that differ where two tokens tie."""
    words = topics["assignment"].split()
    prompts = [" ".join(words[3 * i : 3 * i + 4 + i % 13]) for i in range(count)]
    together = lm.generate(prompts, max_new_tokens=new, do_sample=False)
    same = ties = 0
    for row, prompt in enumerate(prompts):
        alone = lm.generate(prompt, max_new_tokens=new, do_sample=False)
        if alone.text == together.text[row]:
            same += 1
            continue
        step = next(
            i for i, (a, b) in enumerate(zip(alone.steps, together.steps, strict=False)) if a.ids[0] != b.ids[row]
        )
        first, second = alone.steps[step].logits[0].topk(2).values.tolist()
        ties += first - second < TIE
    return same, ties


def recorded(lm: cutaway.LM, new: int = 32) -> tuple[float, str]:
    """The largest |written - read| over a site's largest value, of a text recorded while written and read at once."""
    written = lm.generate(PROMPT, max_new_tokens=new, do_sample=False, sites="*").trace
    assert written is not None, "sites were asked for"
    read = lm.trace(Tokens.from_ids(written.tokens.ids), list(written))
    worst, where = 0.0, ""
    for site in written:
        one, other = written[site].double(), read[site].double()
        steps = min(one.shape[1], other.shape[1]) if one.ndim < 4 or not site.endswith(("scores", "pattern")) else None
        if steps is not None:
            one, other = one[:, :steps], other[:, :steps]
        finite = one.isfinite() & other.isfinite()
        error = float((one - other)[finite].abs().max() / other[finite].abs().max())
        if error > worst:
            worst, where = error, site
    return worst, where


def effects(lm: cutaway.LM) -> torch.Tensor:
    """The scores of every head's patch, all pairs one after another."""
    scores = []
    for text, one, other in PAIRS:
        clean, corrupt = lm.tokenize(text.format(one)), lm.tokenize(text.format(other))
        answer, wrong = (int(lm.tokenize(word).ids[0, -1]) for word in (other, one))
        scores.append(sweep(lm.decoder, clean, corrupt, logit_difference(answer, wrong)).scores.flatten())
    return torch.cat(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modes", nargs="*", default=["int8", "llm-int8"])
    parser.add_argument("--no-keep", action="store_true", help="do not write the result's page")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of edits that change nothing, which is the question here
    full = effects(cutaway.load(Models().small(), quantize=None, dtype="float32", device="cpu"))
    rows: list[Sequence[str]] = []
    verdict = []
    for mode in given.modes:
        lm = cutaway.load(Models().small(), quantize=mode, dtype="float32", device="cpu")
        moved, sites, kl, where = noise(lm)
        same, ties = batches(lm)
        error, at = recorded(lm)
        correlation = float(torch.corrcoef(torch.stack([full, effects(lm)]))[0, 1])
        rows.append((
            mode, f"{moved} of {sites}", f"{kl:.1e} ({where})", f"{same} of 32, {ties} more tie",
            f"{error:.1e} ({at})", f"{correlation:.4f}",
        ))  # fmt: skip
        if mode == "int8":
            held = moved == 0 and kl < 1e-6 and same + ties == 32 and error <= 1e-4 and correlation >= 0.999
            verdict = [f"All bars in the default mode: {yes(held)}."]
    header = (
        "mode", "sites where doing nothing moves a bit", "largest KL of a value · (1 + 1e-6)",
        "same text alone and in a batch", "recorded while written against read", "head patches against full precision",
    )  # fmt: skip
    notes = "Bars: 0; under 1e-6; 32 (two logits within 1e-4 are a tie); 1e-4; correlation 0.999. " + " ".join(verdict)
    report("instrument", "Eight bits as an instrument", header, rows, notes, keep=not given.no_keep)


if __name__ == "__main__":
    main()
