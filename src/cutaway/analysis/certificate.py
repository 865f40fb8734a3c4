"""What do this model's sites mean? Claims that must hold at one's own checkpoint, each with its worst error.

A site is worth reading only if it is what its name says, so each claim is recomputed in another way: values by the
formulas of ground/sites.py, weights by the files they came from, a head's share by its own columns, a batch by its
single texts, a cached pass by an uncached one, every edit by whether the logits move. Trust a certificate for the
model, the precision and the texts that it names; that the decoder is the one its makers meant, only transformers can
say (analysis/transformers_parity.py). Errors are the largest |difference| over the largest |value| of a site. This file
knows values and weights; it does not know text.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cutaway.analysis.derived import head_outputs
from cutaway.edit.edit import Edit
from cutaway.explain.formula import recompute
from cutaway.ground.sites import all_sites, block_sites
from cutaway.model.cache import Cache
from cutaway.model.decoder import Decoder
from cutaway.model.parts import dtype_of
from cutaway.quant.engine import NativeEngine
from cutaway.quant.explain import int8_layers
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run
from cutaway.trace.trace import Trace
from cutaway.weights.checkpoint import Checkpoint
from cutaway.weights.verify import differing

ROUNDING = {torch.float64: 1e-10, torch.float32: 5e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
AT_ONCE = 32  # edits tried in one pass, each in a text of its own
LEAST_MOVE = 1e-7  # of the logits, by an edit of the order of the site's own values


@dataclass(frozen=True)
class Line:
    """One claim: what it says, its worst error and where that was, and what would still do; why, in 8 bits."""

    claim: str
    error: float
    tolerance: float
    where: str = ""
    why: str = ""
    at_least: bool = False  # the error must be above the tolerance: something has to move

    @property
    def passed(self) -> bool:
        """NaN passes nothing."""
        return self.error > self.tolerance if self.at_least else self.error <= self.tolerance

    def as_data(self) -> dict[str, Any]:
        """The line as JSON."""
        return asdict(self) | {"passed": self.passed}


@dataclass(frozen=True, repr=False)
class Certificate:
    """All lines of one check, with what was checked: the model, and the versions of what ran."""

    model: str
    lines: tuple[Line, ...]
    versions: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether every line holds."""
        return all(line.passed for line in self.lines)

    def as_data(self) -> dict[str, Any]:
        """The certificate as JSON."""
        lines = [line.as_data() for line in self.lines]
        return {"model": self.model, "passed": self.passed, "lines": lines, "versions": self.versions}

    def __repr__(self) -> str:
        failed = sum(not line.passed for line in self.lines)
        verdict = f"{failed} of {len(self.lines)} claims fail" if failed else f"all {len(self.lines)} claims hold"
        return f"<Certificate of {self.model}: {verdict}; print it for each>"

    def __str__(self) -> str:
        """A claim a line, at most 80 columns: whether it holds, its worst error, what would do, and where."""
        table = [f"{'':<6}{'claim':<54}{'error':>9}{'allowed':>11}"]
        for line in self.lines:
            sign = ">" if line.at_least else "≤"
            numbers = f"{line.error:>9.1e}  {sign} {line.tolerance:.0e}"
            table.append(f"{'holds' if line.passed else 'FAILS':<6}{line.claim:<54}{numbers}")
            table += [f"      at {line.where}"] if not line.passed and line.where else []
        whys = dict.fromkeys(line.why for line in self.lines if line.why)
        failed = sum(not line.passed for line in self.lines)
        verdict = f"{failed} of {len(self.lines)} claims fail" if failed else f"all {len(self.lines)} claims hold"
        notes = [part for why in whys for part in textwrap.wrap(why, 76, initial_indent="  ", subsequent_indent="  ")]
        return "\n".join([*table, verdict, *notes])


def certify(decoder: Decoder, tokens: Tokens, checkpoint: Checkpoint) -> Iterator[Line]:
    """Every claim about this decoder, on these texts, one line at a time.

    tokens: at least two texts of unequal lengths, padded on the right. checkpoint: the files that it came from.
    """
    modes = {layer.mode for layer in int8_layers(decoder).values()}
    dtype = dtype_of(decoder)
    exact = ROUNDING[dtype]
    trace = run(decoder, tokens)
    yield from _formulas(trace, decoder, exact)
    yield _rows_sum_to_1(trace, decoder, exact)
    yield _heads_sum(trace, decoder, exact, modes)
    yield from _same_passes(trace, decoder, tokens, _border(exact, modes))
    if "llm-int8-pooled" not in modes:
        yield from _same_alone(decoder, tokens, _border(exact, modes))
    yield _edits_move_the_logits(trace, decoder, 1 if "llm-int8-pooled" in modes else AT_ONCE)
    yield _same_weights(decoder, checkpoint)


def relative(one: Tensor, other: Tensor) -> float:
    """Largest |one - other| over largest |other|, equal infinities left out. Unequal ones are an infinite error."""
    a, b = one.double(), other.double()
    finite = a.isfinite() & b.isfinite()
    if not torch.equal(a.where(~finite, 0.0), b.where(~finite, 0.0)):
        return float("inf")
    size = b[finite].abs().max() if finite.any() else b.new_ones(())
    return float((a[finite] - b[finite]).abs().max() / size.clamp(min=1e-30)) if finite.any() else 0.0


def _formulas(trace: Trace, decoder: Decoder, exact: float) -> Iterator[Line]:
    """Each site from its parents. The named identities are lines of their own, all others share one."""
    errors: dict[str, float] = {}
    with torch.no_grad():
        for site in trace:
            try:
                errors[site] = relative(recompute(site, trace, trace.tokens, decoder), trace[site])
            except NameError:  # the formula names a weight that the decoder has lost
                errors[site] = float("inf")
    block = {site.name: site.formula for site in block_sites(decoder.config, 0)}
    sums = {name: f"{name} = {block[name]}" for name in ("resid_mid", "resid_post") if name in block}
    named = {"attn.z": "z = pattern @ v", **sums}
    for ending, claim in named.items():
        yield _worst(claim, {site: e for site, e in errors.items() if site.endswith(f".{ending}")}, exact)
    yield _worst("every site = its formula over its parents", errors, exact)


def _rows_sum_to_1(trace: Trace, decoder: Decoder, exact: float) -> Line:
    sums = {site: trace[site].double().sum(-1) for site in trace if site.endswith("attn.pattern")}
    for site in sums if decoder.config.attn_sinks else ():
        sinks: Any = decoder.get_submodule(site.replace("pattern", "sinks"))
        logs_BHT = trace[site.replace("pattern", "scores")].double().logsumexp(-1)
        sums[site] += torch.sigmoid(sinks.weight.double()[:, None] - logs_BHT)
    claim = f"rows of pattern{' and the sink' * decoder.config.attn_sinks} sum to 1"
    return _worst(claim, {s: float((v - 1).abs().max()) for s, v in sums.items()}, exact)


def _heads_sum(trace: Trace, decoder: Decoder, exact: float, modes: set[str]) -> Line:
    errors, out = {}, "attn.out" if decoder.config.scales_added else "attn_out"
    for layer in range(decoder.config.n_layers):
        whole, site = head_outputs(trace, decoder, layer).sum(2), f"blocks.{layer}.{out}"
        bias = decoder.get_submodule(f"blocks.{layer}.attn.out").bias
        errors[site] = relative(whole if bias is None else whole + bias, trace[site])  # pyright: ignore
    why = "in 8 bits attn_out is of z rounded to codes, and heads are of z itself" if modes else ""
    tolerance = 0.1 if modes - {"int8"} else exact * 4 if modes else exact
    return _worst(f"heads' own outputs sum to {out}", errors, tolerance, why)


def _same_passes(trace: Trace, decoder: Decoder, tokens: Tokens, tolerance: tuple[float, str]) -> Iterator[Line]:
    """Watched and unwatched, cached and uncached."""
    real_BT = tokens.mask.bool()
    with torch.no_grad():
        # not a bit may move, but where torch's fused attention runs, which adds in an order of its own
        exact = isinstance(decoder.run_blocks, NativeEngine) and dtype_of(decoder) == torch.float32
        error, why = relative(trace["logits"][real_BT], decoder(tokens)[real_BT]), "" if exact else tolerance[1]
        yield Line("watched = unwatched", error, 0.0 if exact else tolerance[0], "logits", why)
        one = _row(tokens, 0)
        cache = Cache(decoder.config.n_layers, 1, one.ids.shape[1])
        steps = [decoder(_column(one, t, t + 1), cache) for t in range(one.ids.shape[1])]
        uncached = decoder(one)
    error = relative(torch.cat(steps, 1), uncached)
    yield Line("cached, token by token = uncached", error, tolerance[0], "logits", tolerance[1])


def _same_alone(decoder: Decoder, tokens: Tokens, tolerance: tuple[float, str]) -> Iterator[Line]:
    for side in ("right", "left"):
        rolled = tokens if side == "right" else _padded_left(tokens)
        errors = {}
        with torch.no_grad():
            together = decoder(rolled)
            for row in range(len(tokens.ids)):
                alone = decoder(_row(tokens, row))[0]
                errors[f"text {row}"] = relative(together[row][rolled.mask[row].bool()], alone)
        yield _worst(f"padded on the {side} = single", errors, *tolerance)


def _edits_move_the_logits(trace: Trace, decoder: Decoder, at_once: int) -> Line:
    """At the last place of a text something as large as the values there is added to each site in turn; keys and values
    are changed at the place that the last one attends to most: it may have no weight left for its own."""
    row = int(trace.tokens.lengths.argmin())
    text = _row(trace.tokens, row)
    own = run(decoder, text)
    random = torch.Generator().manual_seed(0)
    sites, moves = list(own), dict[str, float]()
    for start in range(0, len(sites), at_once):
        some = sites[start : start + at_once]
        rows = Tokens.from_ids(text.ids.expand(len(some) + 1, -1))  # the last row is left alone
        placed = [_push(site, own, random, i) for i, site in enumerate(some)]
        logits = run(decoder, rows, "logits", edits=placed, positions=-1)["logits"][:, 0].double()
        apart = (logits - logits[-1]).abs().amax(-1) / logits[-1].abs().max()
        moves |= {site: float(apart[i]) for i, site in enumerate(some)}
    site = min(moves, key=lambda name: moves[name])
    return Line(f"an edit at each of {len(moves)} sites moves the logits", moves[site], LEAST_MOVE, site, at_least=True)


def _push(site: str, own: Trace, random: torch.Generator, text: int) -> Edit:
    """Noise of four times the size of the site's values (in 8 bits less may be rounded away); of scores and patterns,
    a shift at the first position alone that is attended to; of a router, what makes the least likely experts the
    likeliest; of a key its negative, which turns the last token away from it."""
    value = own[site]
    at: dict[str, int] = {"position": -1, "text": text}
    block, _, name = site.rpartition("attn.")
    if block and name.startswith(("k", "rot_k", "v")):
        at["position"] = int(own[f"{block}attn.pattern"][0, :, -1].float().amax(0).argmax())
        if name != "v":
            return Edit.scale(site, -1.0, **at)
    if site.endswith("mlp.router_logits"):
        return Edit.add(site, -2 * value[0, -1], **at)
    size = 4 * float(value[value.isfinite()].double().square().mean().sqrt()) or 1.0
    if all_sites(own.config)[site].shape == "B H T S":
        window = own.config.window_of(int(site.split(".")[1]))
        return Edit.add(site, size, source=0 if window is None else max(0, value.shape[-1] - window), **at)
    noise = torch.randn(value.shape[-1], generator=random, dtype=torch.float64, device="cpu") * size
    return Edit.add(site, noise.abs() if value.shape[-1] == 1 else noise, **at)


def _same_weights(decoder: Decoder, checkpoint: Checkpoint) -> Line:
    """The tensors in use against those of the files, read again, and the facts that shape the pass."""
    wrong = differing(checkpoint, decoder)
    facts = checkpoint.facts
    wrong += [] if decoder.embed.offset == facts.position_offset else ["the position offset"]
    wrong += [] if decoder.config == facts else ["the config"]
    where = wrong[0] if wrong else f"{len(decoder.state_dict())} tensors"
    return Line("weights and facts = the checkpoint's", float(len(wrong)), 0.0, where)


def _border(exact: float, modes: set[str]) -> tuple[float, str]:
    """Tolerance where the same is computed in another order."""
    if modes - {"int8"}:
        why = "in 8 bits a value between two codes may fall on either side: a step of 1/127 of its row, carried on"
        return 0.2, why
    return max(exact * 4, 1e-9), ""


def _worst(claim: str, errors: dict[str, float], tolerance: float, why: str = "") -> Line:
    if not errors:
        return Line(claim, 0.0, tolerance, "this model has none", why)
    where = max(errors, key=lambda site: errors[site] if errors[site] == errors[site] else float("inf"))
    return Line(claim, errors[where], tolerance, where, why)


def _row(tokens: Tokens, row: int) -> Tokens:
    return Tokens.from_ids(tokens.ids[row][tokens.mask[row].bool()])


def _column(tokens: Tokens, start: int, end: int) -> Tokens:
    return Tokens(*(getattr(tokens, name)[:, start:end] for name in ("ids", "mask", "positions")))


def _padded_left(tokens: Tokens) -> Tokens:
    rows: Sequence[tuple[Tensor, Tensor]] = [
        (ids.roll(int((mask == 0).sum())), mask.roll(int((mask == 0).sum())))
        for ids, mask in zip(tokens.ids, tokens.mask, strict=True)
    ]
    return Tokens.from_ids(torch.stack([ids for ids, _ in rows]), torch.stack([mask for _, mask in rows]))
