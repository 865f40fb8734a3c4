"""Why is this number what it is? One element of a recorded value, taken apart into the elements that made it.

The formula is ground/sites.py's, the recomputed value explain/formula.py's, in 8 bits the codes' own. It does not know
how the values were recorded.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from cutaway.edit.weights import matrices
from cutaway.explain.formula import recompute
from cutaway.ground.errors import BadArgument
from cutaway.ground.sites import Site, all_sites, clean_name, parents_of
from cutaway.ground.whole import whole
from cutaway.model.decoder import Decoder
from cutaway.quant.explain import explain
from cutaway.quant.linear import Int8Linear
from cutaway.text.pieces import Tokens
from cutaway.trace.trace import Trace

SHOWN = 6  # of a sum's parts, the largest


@dataclass(frozen=True)
class Part:
    """One element that the number is made of.

    what: its name and place, or a weight's. value: its value. factor: what it is multiplied by, and `by` that
    factor's name, where the number is a sum of products. codes: of the value and of the weight, in 8 bits.
    """

    what: str
    value: float
    factor: float | None = None
    by: str = ""
    codes: tuple[int, int] | None = None

    @property
    def share(self) -> float:
        """What it gives to the sum."""
        return self.value if self.factor is None else self.value * self.factor


@dataclass(frozen=True)
class Why:
    """One number: where it is, its formula, the parts that made it, and the same value computed again from them.

    of: how many parts a sum has; parts holds them all, in their order. notes: what no part says, in words: scales,
    biases, the norm's divisor.
    """

    site: str
    index: tuple[int, ...]
    axes: str
    formula: str
    value: float
    recomputed: float
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()

    @property
    def difference(self) -> float:
        """Recomputed - recorded; 0 where both are the same infinity."""
        return 0.0 if self.value == self.recomputed else self.recomputed - self.value

    def as_data(self) -> dict[str, Any]:
        """Everything as JSON."""
        parts = [vars(part) | {"share": part.share} for part in self.parts]
        same = {name: getattr(self, name) for name in ("site", "axes", "formula", "value", "recomputed", "difference")}
        return same | {"index": list(self.index), "parts": parts, "notes": list(self.notes)}

    def __str__(self) -> str:
        """At most 80 columns; of a long sum its largest parts."""
        place = ", ".join(map(str, self.index))
        lines = [f"{self.site}[{place}] = {self.value:.6g}   ({self.axes})", f"  = {self.formula}"]
        lines.append(f"  recomputed {self.recomputed:.6g}, difference {self.difference:.1e}")
        shown = self.parts
        if len(shown) > SHOWN and all(part.factor is not None for part in shown):
            shown = sorted(shown, key=lambda part: -abs(part.share))[:SHOWN]
        lines += [_line(part) for part in shown[:SHOWN]]
        rest = len(self.parts) - len(shown[:SHOWN])
        if rest:
            left = math.fsum(part.share for part in self.parts) - math.fsum(part.share for part in shown)
            lines.append(f"  and {rest:,} more, {left:+.6g} together")
        return "\n".join(part for line in [*lines, *(f"  {note}" for note in self.notes)] for part in _wrapped(line))


def why(trace: Trace, decoder: Decoder, name: str, *index: SupportsIndex) -> Why:
    """The element of a site at an index on each of its axes.

    Raises BadArgument for a place that is not there, a site whose parents the trace has not recorded, and a trace of a
    model of other facts.
    """
    if trace.config != decoder.config:
        found = f"a trace of {trace.model or 'a model of other facts'}"
        raise BadArgument(found, "a trace of this model", "load the model that made it")
    name = clean_name(name)
    value, site = trace[name], all_sites(trace.config)[name]
    place = _checked(name, site, value, index)
    parents = parents_of(trace.config, name)
    missing = [parent for parent in parents if parent not in trace]
    if missing:
        raise BadArgument(f"no {', '.join(missing)} in this trace", f"the parents of {name}", "add them to sites=")
    again = _recomputed(trace, decoder, name, site, place)
    taken = _Apart(trace, decoder, name, parents, place)
    formula = site.formula if " x" not in f" {site.formula}" else f"{site.formula}, x = {site.parents[0]}"
    parts, notes = taken.parts()
    axes = f"{site.shape} = {list(value.shape)}"
    return Why(name, place, axes, formula, float(value[place]), again, tuple(parts), tuple(notes))


def _checked(name: str, site: Site, value: Tensor, index: Sequence[SupportsIndex]) -> tuple[int, ...]:
    known = [i for i in map(whole, index) if i is not None]
    fits = len(known) == len(index) == value.ndim
    if not fits or not all(-n <= i < n for i, n in zip(known, value.shape, strict=True)):
        expected = f"an index for each of {site.shape} = {list(value.shape)}"
        raise BadArgument(f"{name}{list(index)}", expected, "correct the place")
    return tuple(i % n for i, n in zip(known, value.shape, strict=True))


def _recomputed(trace: Trace, decoder: Decoder, name: str, site: Site, place: tuple[int, ...]) -> float:
    """The formula's value; of a value that each position makes by itself, only at its position."""
    table, parents = all_sites(trace.config), parents_of(trace.config, name)
    alone = all(table[each].shape.startswith("B T") for each in [name, *parents]) and name.rpartition(".")[2] != "z"
    pooled = any(isinstance(m, Int8Linear) and m.mode == "int8-pooled" for m in decoder.modules())
    with torch.no_grad():
        if not alone or pooled:
            return float(recompute(name, trace.values_by_site, trace.tokens, decoder)[place])
        row, column = place[:2]
        values = {each: trace[each][row : row + 1, column : column + 1] for each in parents}
        tokens = _at(trace.tokens, row, column)
        return float(recompute(name, values, tokens, decoder)[(0, 0, *place[2:])])


def _at(tokens: Tokens, row: int, column: int) -> Tokens:
    cut = (slice(row, row + 1), slice(column, column + 1))
    ids, mask, positions = (getattr(tokens, each)[cut] for each in ("ids", "mask", "positions"))
    return replace(tokens, ids=ids, mask=mask, positions=positions, pieces=None)


class _Apart:
    """The parts of one element, by what its site is."""

    def __init__(
        self, trace: Trace, decoder: Decoder, name: str, parents: Sequence[str], place: tuple[int, ...]
    ) -> None:
        self.trace, self.decoder, self.config = trace, decoder, trace.config
        self.name, self.parents, self.place = name, list(parents), place
        self.leaf = name.split(".", 2)[2] if name.startswith("blocks.") else name

    def parts(self) -> tuple[list[Part], list[str]]:
        leaf, kind = self.leaf, self.leaf.rpartition(".")[2]
        by_kind: dict[str, Callable[[], tuple[list[Part], list[str]]]] = {
            "token": self._looked_up, "position": self._looked_up, "scale": self._scale, "rot_q": self._turned,
            "rot_k": self._turned, "scores": self._scores, "pattern": self._pattern, "z": self._mixed,
        }  # fmt: skip
        if kind in by_kind:
            return by_kind[kind]()
        if leaf in MATRICES:
            return self._product()
        if kind in ("normalized", "out"):
            return self._normed(kind)
        return [self._same(parent) for parent in self.parents], []  # sums, copies, the nonlinearity

    def _element(self, parent: str, place: tuple[int, ...]) -> Part:
        return Part(f"{parent}[{', '.join(map(str, place))}]", float(self.trace[parent][place]))

    def _same(self, parent: str) -> Part:
        return self._element(parent, self.place)

    def _looked_up(self) -> tuple[list[Part], list[str]]:
        row, column = self.place[:2]
        known = self.trace.tokens.ids if self.leaf.endswith("token") else self.trace.tokens.positions
        what = "ids" if self.leaf.endswith("token") else "positions"
        return [Part(f"{what}[{row}, {column}]", float(known[row, column]))], ["a row of a table of weights"]

    def _scale(self) -> tuple[list[Part], list[str]]:
        x_D = self.trace[self.parents[0]][self.place[:2]].double()
        said = f"mean {x_D.mean():.6g}, mean of squares {x_D.square().mean():.6g}, eps {self.config.norm_eps:g}"
        return [], [f"of {self.parents[0]}[{self.place[0]}, {self.place[1]}, :]: {said}"]

    def _normed(self, kind: str) -> tuple[list[Part], list[str]]:
        if kind == "normalized":
            x, scale = self.parents
            mean = float(self.trace[x][self.place[:2]].double().mean()) if self.config.norm == "layer" else 0.0
            notes = [f"mean {mean:.6g}"] if self.config.norm == "layer" else []
            return [self._same(x), self._element(scale, (*self.place[:2], 0))], notes
        site = self.name.rpartition(".")[0]
        norm = self.decoder.unembed.ln_final if site == "ln_final" else self.decoder.get_submodule(site)
        gain, bias = norm.weight[self.place[2]], norm.bias  # pyright: ignore
        element = replace(self._same(self.parents[0]), factor=float(gain), by=f"w[{self.place[2]}]")
        return [element], [] if bias is None else [f"bias {float(bias[self.place[2]]):.6g}"]  # pyright: ignore

    def _turned(self) -> tuple[list[Part], list[str]]:
        row, column, head, k = self.place
        half = self.config.rope.dims // 2 if self.config.rope else 0
        position = int(self.trace.tokens.positions[row, column])
        if k >= 2 * half:
            return [self._same(self.parents[0])], ["not turned: beyond the rotary part of a head"]
        pair = k % half
        ends = [self._element(self.parents[0], (row, column, head, i)) for i in (pair, pair + half)]
        return ends, [f"pair {pair} turned by position {position} × its frequency"]

    def _scores(self) -> tuple[list[Part], list[str]]:
        row, head, t, s = self.place
        q, k = self.parents
        sharing = self.config.n_heads // self.config.n_kv_heads
        queries, keys = self.trace[q][row, t, head], self.trace[k][row, s, head // sharing]
        by = f"{k}[{row}, {s}, {head // sharing}, i]"
        parts = [
            Part(f"{q}[{row}, {t}, {head}, {i}]", float(one), float(other) / math.sqrt(self.config.d_head), by)
            for i, (one, other) in enumerate(zip(queries, keys, strict=True))
        ]
        hidden = self.trace[self.name][self.place] == -math.inf
        return ([], ["hidden: a later position, or padding"]) if hidden else (parts, ["each over the root of d_head"])

    def _pattern(self) -> tuple[list[Part], list[str]]:
        row, head, t, _ = self.place
        scores_S = self.trace[self.parents[0]][row, head, t].double()
        notes = [
            f"of scores whose largest is {scores_S.max():.6g}, ln of the sum of e^score {scores_S.logsumexp(0):.6g}"
        ]
        return [self._same(self.parents[0])], notes

    def _mixed(self) -> tuple[list[Part], list[str]]:
        row, t, head, k = self.place
        pattern, v = self.parents
        group = head // (self.config.n_heads // self.config.n_kv_heads)
        weights_S, values_S = self.trace[pattern][row, head, t], self.trace[v][row, :, group, k]
        seen = [s for s in range(len(weights_S)) if weights_S[s] != 0]
        return [
            Part(f"{v}[{row}, {s}, {group}, {k}]", float(values_S[s]), float(weights_S[s]), f"pattern to {s}")
            for s in seen
        ], []

    def _product(self) -> tuple[list[Part], list[str]]:
        """A linear layer's output: every input times its weight, and in 8 bits what the codes say of both."""
        letter = MATRICES[self.leaf]
        letter = "W_gate" if self.leaf == "mlp.pre" and self.config.gated else letter
        block = self.name.removesuffix(self.leaf)
        if self.leaf == "embed.projected":
            layer, start, name = self.decoder.embed.project_in, 0, letter
        else:
            path, start, _ = matrices(self.config)[block + letter]
            layer, name = self.decoder.get_submodule(path), block + letter
        assert layer is not None, "the site exists only where the layer does"
        unit = self.place[2] * self.config.d_head + self.place[3] if len(self.place) == 4 else self.place[2]
        x_BTK = self.trace[self.parents[0]].flatten(2)
        if self.leaf == "logits" and self.decoder.unembed.project_out is not None:
            with torch.no_grad():
                x_BTK = self.decoder.unembed.project_out(x_BTK)
        x_K = x_BTK[self.place[:2]]
        row_K = layer.weight[start + unit].detach()  # pyright: ignore[reportIndexIssue]
        names = self._input_names(len(x_K))
        parts = [
            Part(what, x, w, f"{name}[{unit}, {k}]")
            for k, (what, x, w) in enumerate(zip(names, x_K.tolist(), row_K.tolist(), strict=True))
        ]
        bias = layer.bias
        notes = [] if bias is None else [f"bias {float(bias[start + unit]):.6g}"]  # pyright: ignore[reportIndexIssue]
        if isinstance(layer, Int8Linear) and layer.mode != "int8-weight":
            parts, notes = self._in_codes(layer, x_BTK, start + unit, parts, notes)
        return parts, notes

    def _input_names(self, count: int) -> list[str]:
        parent, width = self.parents[0], self.config.d_head
        at = f"{self.place[0]}, {self.place[1]}"
        if parent.endswith("attn.z"):
            return [f"{parent}[{at}, {i // width}, {i % width}]" for i in range(count)]
        return [f"{parent}[{at}, {i}]" for i in range(count)]

    def _in_codes(
        self, layer: Int8Linear, x_BTK: Tensor, row: int, parts: list[Part], notes: list[str]
    ) -> tuple[list[Part], list[str]]:
        explained = explain(layer, x_BTK)
        one = explained.output(self.place[:2], row)
        outliers = set(one.outlier_columns)
        assert one.activation_codes is not None and one.activation_scale is not None, "this mode has codes"
        codes = zip(one.activation_codes.tolist(), one.weight_codes.tolist(), strict=True)
        x_of_code = one.activation_scale / 127
        coded = [
            part if k in outliers else replace(part, value=pair[0] * x_of_code, codes=pair)
            for k, (part, pair) in enumerate(zip(parts, codes, strict=True))
        ]
        said = f"8 bits: scale {one.activation_scale:.6g} of the input, {one.weight_scale:.6g} of the weight's row;"
        more = f"sum of code · code {one.product:,}; {len(outliers)} outlier columns give {one.outlier:.6g}"
        return coded, [said, more, *notes]


MATRICES = {
    "attn.q": "W_Q", "attn.k": "W_K", "attn.v": "W_V", "attn_out": "W_O", "mlp.pre": "W_up", "mlp.pre_linear": "W_up",
    "mlp_out": "W_down", "logits": "W_U", "embed.projected": "W_in",
}  # fmt: skip


def _wrapped(line: str) -> list[str]:
    """The line, or several of at most 80 columns."""
    return textwrap.wrap(line, 80, subsequent_indent="      ", drop_whitespace=True) or [line]


def _line(part: Part) -> str:
    if part.factor is None:
        return f"  {part.value:>12.6g}  {part.what}"
    codes = "" if part.codes is None else f"  codes {part.codes[0]} · {part.codes[1]}"
    return f"  {part.share:>+12.6g}  {part.what} {part.value:.4g} × {part.factor:.4g}{codes}"
