"""Claim: at every site that both name, cutaway's values are those of TransformerLens's bridge on the same model.

SmolLM2-135M in float32, a prompt and a text of random tokens said twice; largest |difference| over largest |value| of
each kind of site, over all blocks, at most 1e-4. On the second text the five heads of the highest induction score are
the same, with scores within 0.01.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from models import Models
from peers import versions_of
from safetensors.torch import load_file

import cutaway
from cutaway.analysis.certificate import relative
from cutaway.analysis.heads import induction_scores, repeated_tokens
from cutaway.ground.sites import clean_name
from cutaway.text.pieces import Tokens
from cutaway.trace.trace import Trace
from measure import report

WORKER = Path(__file__).parent / "workers" / "transformer_lens_values.py"
SAME = {"embed": "embed.token", "unembed": "logits", "attn.attn_scores": "attn.scores"}  # other names of one thing
PROMPT = "When Mary and John went to the store, John gave a drink to"
LENGTH = 50


def theirs(python: Path, folder: Path, tokens: Tokens) -> dict[str, torch.Tensor]:
    """What the bridge caches, by our names where a name differs."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "cache.safetensors"
        command = [str(python), str(WORKER), str(folder), json.dumps(tokens.ids.tolist()), str(out)]
        subprocess.run(command, check=True, capture_output=True)
        found = load_file(out)
    return {_ours(name): value for name, value in found.items()}


def _ours(name: str) -> str:
    clean = clean_name(name)
    block, _, leaf = clean.partition(".attn.") if clean.startswith("blocks.") else ("", "", clean)
    return f"{block}.{SAME['attn.attn_scores']}" if leaf == "attn_scores" else SAME.get(clean, clean)


def kind(site: str) -> str:
    """The site without its block's number."""
    return ".".join(["blocks.*", *site.split(".")[2:]]) if site.startswith("blocks.") else site


def compare(trace: Trace, cache: dict[str, torch.Tensor]) -> dict[str, float]:
    """The worst error of each kind of site that both name."""
    worst: dict[str, float] = {}
    for site in trace:
        if site in cache:
            one, other = trace[site], cache[site]
            if site.endswith("attn.scores"):  # hidden places are -inf here and the lowest float there
                hidden = one.isneginf()
                one, other = one.masked_fill(hidden, 0.0), other.masked_fill(hidden, 0.0)
            worst[kind(site)] = max(worst.get(kind(site), 0.0), relative(one, other))
    return worst


def main() -> int:
    models = Models()
    python, folder = models.peer("transformer_lens"), models.small()
    lm = cutaway.load(folder, quantize=None, dtype="float32", device="cpu")
    twice = repeated_tokens(lm.config, LENGTH, texts=1)
    rows: dict[str, list[float]] = {}
    for tokens in (lm.tokens(PROMPT), twice):
        trace, cache = lm.trace(tokens), theirs(python, folder, tokens)
        for name, error in compare(trace, cache).items():
            rows.setdefault(name, []).append(error)
    lines = [[f"`{name}`", *(f"{e:.1e}" for e in errors), "yes" if max(errors) <= 1e-4 else "NO"]
             for name, errors in rows.items()]  # fmt: skip
    ours = induction_scores(trace, LENGTH)
    patterns = {site: cache[site] for site in trace if site.endswith("attn.pattern")}
    bridge = induction_scores(Trace(patterns, twice, lm.config), LENGTH)
    tops = [scores.flatten().topk(5).indices.tolist() for scores in (ours, bridge)]
    apart = float((ours - bridge).abs().max())
    holds = set(tops[0]) == set(tops[1]) and apart <= 0.01
    shown = ", ".join(f"{i // ours.shape[1]}.{i % ours.shape[1]} {float(ours.flatten()[i]):.3f}" for i in tops[0])
    lines.append([f"induction, top five heads: {shown}", "", f"{apart:.1e}", "yes" if holds else "NO"])
    alone = sorted({kind(site) for site in trace} - rows.keys())
    came = ", ".join(f"{package} {number}" for package, number in versions_of("transformer_lens").items())
    notes = f"Against {came}; {len(rows)} kinds of sites, {lm.config.n_layers} blocks. "
    notes += f"Of ours it has no {', '.join(alone)}." if alone else "It has every site of ours."
    report("transformer_lens", "Values against TransformerLens's bridge, SmolLM2-135M in float32",
           ["site", "on a prompt", "on random tokens said twice", "within 1e-4"], lines, notes)  # fmt: skip
    return 0 if all(line[-1] == "yes" for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
