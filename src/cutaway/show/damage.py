"""What each layer's rounding does to the next token, as data and drawn: the worst layers, sums, and what to keep.

It does not know how a figure is measured.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from cutaway.analysis.damage import Damage, LayerDamage
from cutaway.model.architecture import more, size
from cutaway.show.finding import Finding
from cutaway.show.layout import WIDTH, bar, unbroken
from cutaway.show.pictures import Bars, Picture

TOP = 12  # layers that are drawn
BAR = 10
SIDE_BY_SIDE = 3  # blocks on a line
APART = 0.1  # of the KL of all: shares whose sum is further from it do not explain it
COLUMNS = (
    "alone: KL(full ‖ only this layer in 8 bits), in millionths of a nat; agrees: the likeliest token, then; "
    "share: the layer's part of the KL of all, in the same unit"
)
NOT_ADDITIVE = (
    "The shares do not sum to the KL of all: a layer's error among the others' is not the one that it has alone. "
    "Trust the measured figure below, not the predicted one."
)
HOW = (
    "predicted: by the covariance of their change of the logits with that of all layers, less KL(full ‖ only these in "
    "8 bits); measured: by a pass with the other layers in 8 bits"
)


@dataclass(frozen=True, eq=False, repr=False)
class DamageFinding(Finding, Damage):
    """A Damage that can be drawn: of a model in full precision (dtype) and its layers in 8 bits (mode).

    The TOP layers with the largest shares are drawn.
    """

    dtype: str
    mode: str

    __repr__ = Finding.__repr__

    @property
    def axes(self) -> Mapping[str, list[str]]:
        """The layers, in the order of the pass."""
        return {"layer": [layer.name for layer in self.layers]}

    def to_dict(self) -> dict[str, Any]:
        kept = [layer for layer in self.layers if layer.name in self.keep]
        return {
            "model": self.model, "dtype": self.dtype, "mode": self.mode,
            "positions": self.positions, "total": self.total, "agreement": self.agreement,
            "layers": self.records(), "by_block": _sums(self.layers, _block), "by_kind": _sums(self.layers, _kind),
            "keep": {
                "layers": list(self.keep), "predicted": self.predicted, "measured": self.measured,
                "bytes": sum(layer.bytes for layer in kept), "full_bytes": sum(layer.full_bytes for layer in kept),
            },
        }  # fmt: skip

    def records(self) -> list[dict[str, Any]]:
        return [vars(layer) | {"saves": layer.saves} for layer in self.layers]

    def __str__(self) -> str:
        data = self.to_dict()
        return "\n".join([*_title(data), "", *_worst(data), "", *_summed(data), "", *_keep(data)])

    def pictures(self) -> list[Picture]:
        layers = sorted(self.layers, key=lambda layer: -layer.share)[:TOP]
        blocks = _sums(self.layers, _block)
        title = f"share of the KL of all layers in 8 bits ({self.mode})"
        return [
            Bars(f"{title}: the largest", [each.name for each in layers], [each.share for each in layers], "nats"),
            Bars(f"{title}, by block", list(blocks), [of["share"] for of in blocks.values()], "nats"),
        ]


def _kind(name: str) -> str:
    return name.split(".", 2)[2] if name.startswith("blocks.") else name


def _block(name: str) -> str:
    return name.split(".")[1] if name.startswith("blocks.") else "head"


def _sums(layers: Sequence[LayerDamage], group: Callable[[str], str]) -> dict[str, dict[str, float]]:
    """alone and share of the layers of a group, and how many they are."""
    sums: dict[str, dict[str, float]] = {}
    for layer in layers:
        of = sums.setdefault(group(layer.name), {"layers": 0, "alone": 0.0, "share": 0.0})
        of |= {"layers": of["layers"] + 1, "alone": of["alone"] + layer.alone, "share": of["share"] + layer.share}
    return sums


def _title(data: dict[str, Any]) -> list[str]:
    count, tokens = len(data["layers"]), data["positions"]
    return [
        f"{data['model']}: each layer's rounding ({data['mode']}) against {data['dtype']}",
        f"KL(full ‖ all {count} layers in 8 bits): {_nats(data['total'])} nats a position, of {tokens:,} positions",
        f"the likeliest token is the same at {data['agreement'] * 100:.1f} % of them",
    ]


def _worst(data: dict[str, Any]) -> list[str]:
    layers = sorted(data["layers"], key=lambda layer: -layer["share"])
    lines = [f"{'layer':<22}{'alone':>10}{'share':>10}{'of all':>8}{'agrees':>8}{'8 bits':>9}"]
    for each in layers[:TOP]:
        agrees, drawn = f"{each['agreement'] * 100:.1f} %", _bar(each["share"], layers[0]["share"])
        lines.append(f"{_figures(each['name'], each, data)}{agrees:>8}{size(each['bytes']):>9}  {drawn}".rstrip())
    if len(layers) > TOP:
        rest = {name: sum(each[name] for each in layers[TOP:]) for name in ("alone", "share")}
        lines.append(_figures(f"sum of {len(layers) - TOP} more", rest, data))
    sums = {name: sum(each[name] for each in layers) for name in ("alone", "share")}
    lines += [_figures("sum", sums, data), *wrap(COLUMNS, WIDTH)]
    return (
        lines if abs(sums["share"] - data["total"]) <= APART * data["total"] else [*lines, *wrap(NOT_ADDITIVE, WIDTH)]
    )


def _summed(data: dict[str, Any]) -> list[str]:
    kinds, blocks = data["by_kind"], data["by_block"]
    lines = [f"{'kind':<22}{'alone':>10}{'share':>10}{'of all':>8}"]
    lines += [_figures(f"{of['layers']} × {kind}", of, data) for kind, of in kinds.items()]
    largest = max(of["share"] for of in blocks.values())
    cells = [
        f"{name:>5}{_millionths(of['share']):>10} {_bar(of['share'], largest):<{BAR}}" for name, of in blocks.items()
    ]  # fmt: skip
    rows = -(-len(cells) // SIDE_BY_SIDE)
    lines += ["", "share by block, in millionths of a nat"]
    return lines + ["".join(cells[row::rows]).rstrip() for row in range(rows)]


def _keep(data: dict[str, Any]) -> list[str]:
    keep, total = data["keep"], data["total"]
    names, cost = keep["layers"], more(keep["full_bytes"], keep["bytes"])
    lower = {how: (1 - keep[how] / total) * 100 if total else 0.0 for how in ("predicted", "measured")}
    return [
        *unbroken(["to keep in full precision:", *(f"--keep {name}" for name in names)]),
        f"KL {_nats(total)} → {_nats(keep['predicted'])} predicted ({lower['predicted']:.1f} % lower),"
        f" {_nats(keep['measured'])} measured ({lower['measured']:.1f} %)",
        f"at {size(keep['full_bytes'])} instead of {size(keep['bytes'])}: {cost}",
        *wrap(HOW, WIDTH),
    ]  # fmt: skip


def _figures(name: str, of: Mapping[str, float], data: dict[str, Any]) -> str:
    part = of["share"] / data["total"] * 100 if data["total"] else 0.0
    return f"{name:<22}{_millionths(of['alone']):>10}{_millionths(of['share']):>10}{f'{part:.1f} %':>8}"


def _nats(value: float) -> str:
    return f"{value:.6f}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"


def _millionths(nats: float) -> str:
    return f"{nats * 1e6:,.1f}" if abs(nats) < 0.1 else f"{nats * 1e6:,.0f}" if abs(nats) < 10 else f"{nats * 1e6:.2e}"


def _bar(share: float, largest: float) -> str:
    return bar(share / largest if largest > 0 else 0.0, BAR).rstrip()
