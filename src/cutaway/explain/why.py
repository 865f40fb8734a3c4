"""Why is this number what it is? One element of a recorded value, decomposed into the elements that made it.

The formula is ground/sites.py's, the recomputed value explain/formula.py's, in 8 bits the codes' own. It does not know
how the values were recorded.
"""

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex, cast

import torch
from torch import Tensor, nn

from cutaway.explain.formula import recompute
from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument
from cutaway.ground.layers import Weight, expert_of, site_weights
from cutaway.ground.sites import Site, all_sites, clean_name, parents_of
from cutaway.ground.whole import whole
from cutaway.model.decoder import Decoder, Norm
from cutaway.quant.explain import explain, layer_input
from cutaway.quant.formats import GROUP
from cutaway.quant.linear import Int8Linear
from cutaway.trace.trace import Trace

SHOWN = 6  # of a sum's terms, the largest


@dataclass(frozen=True)
class Term:
    """One element that the number is computed from.

    what: its name and index, or a weight's. value: its value. factor: what it is multiplied by, and `by` that
    factor's name, where the number is a sum of products. codes: of the value and of the weight, in 8 bits.
    """

    what: str
    value: float
    factor: float | None = None
    by: str = ""
    codes: tuple[int, int] | None = None

    @property
    def contribution(self) -> float:
        """What it adds to the sum."""
        return self.value if self.factor is None else self.value * self.factor


Terms = tuple[list[Term], list[str]]  # and notes on them in words


@dataclass(frozen=True, repr=False)
class Why:
    """One number: its site and index, its formula, the terms that made it, and the same value recomputed.

    terms: all of them, in their order. notes: in words, what no term holds: scales, biases, the norm's divisor.
    """

    site: str
    index: tuple[int, ...]
    shape: str
    formula: str
    value: float
    recomputed: float
    terms: tuple[Term, ...]
    notes: tuple[str, ...] = ()

    @property
    def difference(self) -> float:
        """Recomputed - recorded; 0 where both are the same infinity."""
        return 0.0 if self.value == self.recomputed else self.recomputed - self.value

    def as_data(self) -> dict[str, Any]:
        """Everything as JSON."""
        terms = [vars(term) | {"contribution": term.contribution} for term in self.terms]
        told = {"axes" if name == "shape" else name: value for name, value in vars(self).items()}
        return told | {"index": list(self.index), "difference": self.difference, "terms": terms}

    def __repr__(self) -> str:
        name, count = _named(self.site, *self.index), f"{len(self.terms):,} term{'s' * (len(self.terms) != 1)}"
        return f"<Why {name} = {self.value:.6g}: {self.formula}, {count}; print it for the largest>"

    def __str__(self) -> str:
        """At most 80 columns; of a long sum its largest terms."""
        lines = [f"{_named(self.site, *self.index)} = {self.value:.6g}   ({self.shape})", f"  = {self.formula}"]
        lines.append(f"  recomputed {self.recomputed:.6g}, difference {self.difference:.1e}")
        by_size = sorted(self.terms, key=lambda term: -abs(term.contribution))
        shown, rest = (self.terms, []) if len(self.terms) <= SHOWN else (by_size[:SHOWN], by_size[SHOWN:])
        lines += [_line(term) for term in shown]
        if rest:
            lines.append(f"  and {len(rest):,} more, {math.fsum(term.contribution for term in rest):+.6g} together")
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(part for line in lines for part in textwrap.wrap(line, 80, subsequent_indent="      "))


def why(trace: Trace, decoder: Decoder, name: str, *index: SupportsIndex) -> Why:
    """The element of a site at an index on each of its axes.

    Raises BadArgument for an index out of range, a site whose parents the trace has not recorded, and a trace of a
    model of other facts.
    """
    if trace.config != decoder.config:
        found = f"a trace of {trace.model or 'a model of other facts'}"
        raise BadArgument(found, "a trace of this model", "load the model that made it")
    name = clean_name(name)
    value, site = trace[name], all_sites(trace.config)[name]
    at = _checked(name, site, value, index)
    missing = [parent for parent in parents_of(trace.config, name) if parent not in trace]
    if missing:
        raise BadArgument(f"no {', '.join(missing)} in this trace", f"the parents of {name}", "add them to sites=")
    formula = site.formula + (f", x = {site.parents[0]}" if re.search(r"\bx\b", site.formula) else "")
    terms, notes = Decomposition(trace, decoder, name, at).terms()
    shape, again = f"{site.shape} = {list(value.shape)}", _recomputed(trace, decoder, name, at)
    return Why(name, at, shape, formula, float(value[at]), again, tuple(terms), tuple(notes))


def parent_indexes(config: DecoderConfig, name: str, index: Sequence[int]) -> list[tuple[str, tuple[int | None, ...]]]:
    """The elements that one element is computed from: each parent with an index on each of its axes, None for all."""
    table, found = all_sites(config), []
    axes = table[name].shape.split()
    here: dict[str, int | None] = dict(zip(axes, index, strict=True))
    if "H" in here:
        here["G"] = index[axes.index("H")] * config.n_kv_heads // config.n_heads
    for parent in parents_of(config, name):
        of = table[parent].shape.split()
        keys = name.endswith(("attn.scores", "attn.z")) and parent.endswith(("attn.k", "attn.rot_k", "attn.v"))
        known = here | {"T": here.get("S")} if keys else here  # a key's or value's position is the one attended to
        exact = of == axes and not name.endswith("attn.pattern")  # a softmax reads its whole row
        exact = exact or name.endswith("attn.z")  # of v the same component
        exact = exact and not name.endswith("mlp.router_scores")  # as do the scores of experts
        last = known.get(of[-1]) if exact else 0 if of[-1] == "1" else None
        found.append((parent, (*(known.get(axis) for axis in of[:-1]), last)))
    return found


def _checked(name: str, site: Site, value: Tensor, index: Sequence[SupportsIndex]) -> tuple[int, ...]:
    known = [i for i in map(whole, index) if i is not None]
    fits = len(known) == len(index) == value.ndim
    if not fits or not all(-n <= i < n for i, n in zip(known, value.shape, strict=True)):
        expected = f"an index for each of {site.shape} = {list(value.shape)}"
        raise BadArgument(f"{name}{list(index)}", expected, "correct the index")
    return tuple(i % n for i, n in zip(known, value.shape, strict=True))


def _recomputed(trace: Trace, decoder: Decoder, name: str, index: tuple[int, ...]) -> float:
    """The formula's value; where no position reads another, computed at this position alone."""
    table, parents = all_sites(trace.config), parents_of(trace.config, name)
    alone = all(table[each].shape.startswith("B T") for each in [name, *parents])
    alone = alone and all(rope.kind != "longrope" for rope in trace.config.ropes)  # which the whole text decides
    pooled = any(isinstance(m, Int8Linear) and m.mode == "llm-int8-pooled" for m in decoder.modules())
    with torch.no_grad():
        if name.endswith("attn.z"):  # one row of the pattern over all values
            row, at = slice(index[0], index[0] + 1), slice(index[1], index[1] + 1)
            values = {parents[0]: trace[parents[0]][row, :, at], parents[1]: trace[parents[1]][row]}
            return float(recompute(name, values, trace.tokens, decoder)[(0, 0, *index[2:])])
        if not alone or pooled:
            return float(recompute(name, trace.values_by_site, trace.tokens, decoder)[index])
        here = tuple(slice(i, i + 1) for i in index[:2])
        values = {each: trace[each][here] for each in parents}
        given = {each: getattr(trace.tokens, each)[here] for each in ("ids", "mask", "positions")}
        tokens = replace(trace.tokens, pieces=None, **given)
        return float(recompute(name, values, tokens, decoder)[(0, 0, *index[2:])])


class Decomposition:
    """The terms of one element, by what its site is."""

    def __init__(self, trace: Trace, decoder: Decoder, name: str, index: tuple[int, ...]) -> None:
        self.trace, self.decoder, self.config = trace, decoder, trace.config
        self.name, self.parents, self.index = name, parents_of(trace.config, name), index
        self.sharing = trace.config.n_heads // trace.config.n_kv_heads  # query heads of one key/value head

    def terms(self) -> Terms:
        weights = site_weights(self.config, self.name)
        if weights and expert_of(weights[0].module) is not None:
            return self._of_experts(weights)
        if weights:
            by_kind = {"embedding": self._looked_up, "norm": self._gain, "sinks": self._pattern}
            return by_kind.get(weights[-1].kind, self._product)(*weights[::-1])
        by_site = {
            "scale": self._scale, "normalized": self._normalized, "rot_q": self._rotated, "rot_k": self._rotated,
            "scores": self._scores, "pattern": self._pattern, "z": self._mixed,
            "router_scores": self._routed, "post": self._gated,
        }  # fmt: skip
        kind = self.name.rpartition(".")[2]
        if kind in by_site:
            return by_site[kind]()
        return self._elements(), []  # sums, copies

    def _elements(self) -> list[Term]:
        return [self._element(parent, self.index) for parent in self.parents]

    def _element(self, parent: str, index: tuple[int, ...]) -> Term:
        return Term(_named(parent, *index), float(self.trace[parent][index]))

    def _looked_up(self, weight: Weight) -> Terms:
        rows_BT = getattr(self.trace.tokens, weight.reads)
        at = self.index[:2]
        return [Term(_named(weight.reads, *at), float(rows_BT[at]))], [f"a row of {weight.name}"]

    def _scale(self) -> Terms:
        where = self.index[:-1]  # of the vector, or of one head's, or of all heads together
        x = self.trace[self.parents[0]][where].double()
        moments = f"mean {x.mean():.6g}, mean of squares {x.square().mean():.6g}, eps {self.config.norm_eps:g}"
        return [], [f"of {_named(self.parents[0], *where, ':')}: {moments}"]

    def _normalized(self) -> Terms:
        x, scale = self.parents
        where = self.index[: self.trace[scale].ndim - 1]
        mean = self.trace[x][where].double().mean()
        notes = [f"mean {mean:.6g}"] if self.config.norm == "layer" else []
        return [self._element(x, self.index), self._element(scale, (*where, 0))], notes

    def _gain(self, weight: Weight) -> Terms:
        norm = cast(Norm, self.decoder.get_submodule(weight.module))
        gain = cast(Tensor, norm.gain)
        i = self.index[-1] if len(self.index) == 3 or len(gain) == self.config.d_head else self._unit()
        by = f"1 + w[{i}]" if norm.plus_one else f"w[{i}]"
        return [replace(self._element(weight.reads, self.index), factor=float(gain[i]), by=by)], _bias(norm, i)

    def _unit(self) -> int:
        """The row of a head's component, heads one after another."""
        return self.index[2] * self.config.d_head + self.index[3]

    def _rotated(self) -> Terms:
        row, column, head, k = self.index
        rope = self.config.rope_of(int(self.name.split(".")[1]))
        half = rope.dims // 2 if rope else 0
        if k >= 2 * half:
            return [self._element(self.parents[0], self.index)], ["not rotated: beyond the rotary part of a head"]
        neighbours = rope is not None and rope.interleaved
        pair, position = k // 2 if neighbours else k % half, int(self.trace.tokens.positions[row, column])
        parts = (2 * pair, 2 * pair + 1) if neighbours else (pair, pair + half)
        ends = [self._element(self.parents[0], (row, column, head, i)) for i in parts]
        return ends, [f"pair {pair} rotated by position {position} × its frequency"]

    def _scores(self) -> Terms:
        row, head, t, s = self.index
        if self.trace[self.name][self.index] == -math.inf:
            return [], ["masked: a later position, one beyond the window, or padding"]
        (q, k), group = self.parents, head // self.sharing
        scale = self.config.scale_of(int(self.name.split(".")[1]))
        keys_K = self.trace[k][row, s, group] * scale
        pairs = zip(self.trace[q][row, t, head].tolist(), keys_K.tolist(), strict=True)
        by = _named(k, row, s, group, "i")
        terms = [Term(_named(q, row, t, head, i), one, other, by) for i, (one, other) in enumerate(pairs)]
        notes = [f"each times {scale:.6g}" if self.config.own_scale else "each over the square root of d_head"]
        notes += [] if self.config.attn_softcap is None else [f"their sum held below {self.config.attn_softcap:g}"]
        if self.config.alibi is not None:
            slope = self.config.alibi.slopes[head] * self.config.alibi.scale
            notes.append(f"ALiBi adds {slope:.6g} × the position of {s}")
        return terms, notes

    def _pattern(self, sinks: Weight | None = None) -> Terms:
        scores_S = self.trace[self.parents[0]][self.index[:3]].double()
        notes = [f"largest score {scores_S.max():.6g}, log-sum-exp {scores_S.logsumexp(0):.6g}"]
        if sinks is not None:
            head = self.index[1]
            sink = cast(Tensor, self.decoder.get_submodule(sinks.module).weight)[head].double()
            share = f"{torch.sigmoid(sink - scores_S.logsumexp(0)):.6g}"
            notes.append(f"a row sums to 1 - {share}, the share of the head's sink, a score of {sink:.6g}")
        return self._elements(), notes

    def _gated(self) -> Terms:
        """The nonlinearity; what a limit holds, in words."""
        terms, limit, notes = self._elements(), self.config.mlp_limit, []
        if limit is not None:
            gate, linear = (term.value for term in terms)
            notes += [f"the gate is held at {limit:g}"] if gate > limit else []
            notes += [f"the linear branch is held at {math.copysign(limit, linear):g}"] if abs(linear) > limit else []
        return terms, notes

    def _routed(self) -> Terms:
        logits_X = self.trace[self.parents[0]][self.index[:2]].double()
        ranks = logits_X.argsort(descending=True).tolist()
        chosen = ranks[: self.config.experts_per_token]
        sums = "the chosen ones' sum to 1" if self.config.normalized_scores else "before the others' are left out"
        notes = [f"rank {ranks.index(self.index[2]) + 1} of {len(ranks)}: chosen are experts {_listed(chosen, 8)}"]
        notes.append(f"softmax of the logits, log-sum-exp {logits_X.logsumexp(0):.6g}, {sums}")
        return [self._element(self.parents[0], self.index)], notes

    def _of_experts(self, weights: Sequence[Weight]) -> Terms:
        """One expert's hidden value, or the sum of what the chosen experts give, each times its score."""
        scores_X = self.trace[self.parents[1]][self.index[:2]].tolist()
        if len(self.index) == 4:
            expert = self.index[2]
            unchosen = [], [f"expert {expert} is not chosen here, and not computed"]
            return self._product(weights[expert]) if scores_X[expert] else unchosen
        terms, notes = [], []
        for expert, (score, weight) in enumerate(zip(scores_X, weights, strict=True)):
            if score:
                own, more = self._product(weight)
                by = f"score {score:.4g} · "
                terms += [replace(term, factor=score * (term.factor or 0.0), by=by + term.by) for term in own]
                notes += [f"expert {expert}, score {score:.6g}, also of the bias", *more]
        return terms, notes

    def _mixed(self) -> Terms:
        row, t, head, k = self.index
        (pattern, v), group = self.parents, head // self.sharing
        weights_S, values_S = self.trace[pattern][row, head, t], self.trace[v][row, :, group, k]
        return [
            Term(_named(v, row, s, group, k), value, weight, f"pattern to {s}")
            for s, (value, weight) in enumerate(zip(values_S.tolist(), weights_S.tolist(), strict=True))
            if weight != 0
        ], []

    def _product(self, weight: Weight, *projections: Weight) -> Terms:
        """A linear layer's output: every input times its weight, and in 8 bits the codes of both.

        projections: what the input is projected by first, before the head.
        """
        layer, read = self.decoder.get_submodule(weight.module), self.trace[weight.reads]
        at, width = self.index[:2], self.config.d_head
        expert = expert_of(weight.module)
        unit = self._unit() if len(self.index) == 4 and expert is None else self.index[-1]
        row = weight.rows.start + unit
        x_BTK = layer_input(self.decoder, weight.module, read)
        w_K = layer.weight[row].tolist()  # pyright: ignore[reportIndexIssue,reportCallIssue]
        terms, source = [], f"({weight.reads} @ {projections[0].name}.T)" if projections else weight.reads
        for k, (x, w) in enumerate(zip(x_BTK[at].tolist(), w_K, strict=True)):
            inner = divmod(k, width) if expert is None else (expert, k)
            what = _named(source, *at, *(inner if read.ndim == 4 else (k,)))
            terms.append(Term(what, x, w, _named(weight.name, unit, k)))
        if not isinstance(layer, Int8Linear):
            return terms, _bias(layer, row)
        terms, notes = self._in_codes(layer, x_BTK, row, terms)
        return terms, [*notes, *_bias(layer, row)]

    def _in_codes(self, layer: Int8Linear, x_BTK: Tensor, row: int, terms: list[Term]) -> Terms:
        one = explain(layer, x_BTK).output(self.index[:2], row)
        outliers = set(one.outlier_columns)
        codes = zip(one.activation_codes.tolist(), one.weight_codes.tolist(), strict=True)
        width, unit = (GROUP, 1) if layer.mode == "int8" else (len(terms), 127)
        scales = one.activation_scales
        coded = [
            term if k in outliers else replace(term, value=pair[0] * scales[k // width] / unit, codes=pair)
            for k, (term, pair) in enumerate(zip(terms, codes, strict=True))
        ]
        if layer.mode == "int8":
            of_input, of_row = (f"{min(part):.4g} to {max(part):.4g}" for part in (scales, one.weight_scales))
            return coded, [
                f"{len(scales)} groups of {GROUP} columns: scales {of_input} of the input, {of_row} of the weight;",
                f"sums of code · code: {_listed(one.products)}, each times both scales",
            ]
        of_both = f"scale {scales[0]:.6g} of the input, {one.weight_scales[0]:.6g} of the weight's row"
        sums = f"sum of code · code {one.products[0]:,}; {len(outliers)} outlier columns add {one.outlier:.6g}"
        return coded, [f"8 bits: {of_both};", sums]


def _listed(products: Sequence[int], most: int = 4) -> str:
    shown = ", ".join(f"{product:,}" for product in products[:most])
    return shown if len(products) <= most else f"{shown} …"


def _named(name: str, *index: int | str) -> str:
    return f"{name}[{', '.join(map(str, index))}]"


def _bias(layer: nn.Module, row: int) -> list[str]:
    return [] if layer.bias is None else [f"bias {float(layer.bias[row]):.6g}"]  # pyright: ignore


def _line(term: Term) -> str:
    if term.factor is None:
        return f"  {term.value:>12.6g}  {term.what}"
    codes = "" if term.codes is None else f"  codes {term.codes[0]} · {term.codes[1]}"
    return f"  {term.contribution:>+12.6g}  {term.what} {term.value:.4g} × {term.factor:.4g}{codes}"
