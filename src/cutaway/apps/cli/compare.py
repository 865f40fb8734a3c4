"""`cutaway compare`: the same text in full precision and in 8 bits, and where their values differ.

It runs one model after the other; it does not know how their values are compared or drawn.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from cutaway.apps.cli.common import MODES, Options, busy, read_texts, verb
from cutaway.apps.cli.options import Block, Figure, NoSpecial, Texts
from cutaway.ground.errors import BadArgument

if TYPE_CHECKING:
    from cutaway.show.finding import Finding

LAYERS = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")
HEAD = "unembed.head"

Quantize = Annotated[str | None, typer.Option(metavar="HOW", help="int8, llm-int8 or llm-int8-pooled.")]
Layer = Annotated[str, typer.Option(metavar="NAME", help=f"The layer: {', '.join(LAYERS)}, or {HEAD}.")]
Sites = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN", help='Compare these too, as "*.attn.pattern"; may be repeated.')
]
Layers = Annotated[
    bool, typer.Option("--layers", help="Show instead what each layer's rounding alone does, and which to keep.")
]
Suggest = Annotated[int | None, typer.Option(min=1, help="With --layers: how many layers to name; 3 without it.")]
Limit = Annotated[
    int | None, typer.Option(min=2, help="With --layers: read so many tokens of the texts; 128 without it.")
]


@dataclass(frozen=True)
class EightBits(Options):
    """Full precision is the other model."""

    modes: ClassVar[Sequence[str]] = MODES
    quantize: Quantize = "int8"


@verb
def compare(
    options: EightBits,
    texts: Texts,
    block: Block = 0,
    layer: Layer = LAYERS[0],
    sites: Sites = None,
    layers: Layers = False,
    suggest: Suggest = None,
    limit: Limit = None,
    figure: Figure = None,
    no_special_tokens: NoSpecial = False,
) -> None:
    """Compare full precision with 8 bits. Values, next token, bytes.

    The two models are loaded one after the other, never both at once. With --layers both are, and each layer
    by itself is in 8 bits in turn.
    """
    read = read_texts(texts)
    of_sites = {"--block": block != 0, "--layer": layer != LAYERS[0], "--sites": sites is not None}
    of_layers = {"--suggest": suggest is not None, "--limit": limit is not None}
    _require_unused(of_sites if layers else of_layers, layers)
    if layers:
        found = _compare_layers(options, read, suggest or 3, limit or 128, not no_special_tokens)
    else:
        found = _compare_sites(options, read, block, layer, sites or [], not no_special_tokens)
    options.print(found, figure)


def _require_unused(given: dict[str, bool], layers: bool) -> None:
    """Raises BadArgument for an option that would have no effect with --layers, or without it."""
    for option in (name for name, used in given.items() if used):
        if layers:
            raise BadArgument(f"{option} with --layers", "one of the two", f"leave {option} or --layers out")
        raise BadArgument(f"{option} without --layers", "both, or neither", f"add --layers, or leave {option} out")


def _compare_sites(
    options: EightBits, texts: list[str], block: int, layer: str, sites: list[str], special: bool
) -> "Finding":
    """Two models, one after the other, site by site."""
    with busy("starting") as report:
        from cutaway.analysis.compare import compared_sites
        from cutaway.analysis.precisions import layer_name
        from cutaway.ground.select import select

        config = options.config(report)
        layer_name(config, block, layer)  # a wrong name raises before weights are read
        select(config, [*compared_sites(config), *sites])
        unquantized = replace(options, quantize="none").load(report)
        full = unquantized.full_run(texts, block=block, layer=layer, sites=sites, add_special_tokens=special)
        del unquantized
        gc.collect()
        return options.load(report, notes=False).compare(texts, full=full)


def _compare_layers(options: EightBits, texts: list[str], suggest: int, limit: int, special: bool) -> "Finding":
    """One model in full precision, in which each layer by itself is in 8 bits in turn."""
    mode = options.quantize or "int8"
    with busy("starting") as report:
        from cutaway.weights.files import is_saved

        path = options.find(report)
        if is_saved(path):
            found = f"{path}, which is in 8 bits already"
            raise BadArgument(found, "a model in full precision", "name the model that it was made from")
        lm = replace(options, quantize="none").load(report)
        return lm.damage(texts, mode, suggest=suggest, limit=limit, add_special_tokens=special, progress=report)
