"""`cutaway compare`: the same text in full precision and in 8 bits, and where their values differ.

It runs one model after the other; it does not know how their values are compared or drawn.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from cutaway.apps.cli.common import MODES, Options, busy, print_json, print_lines, read_texts, verb
from cutaway.apps.cli.options import Block, NoSpecial, Texts
from cutaway.ground.errors import BadArgument

if TYPE_CHECKING:
    from cutaway.ground.config import DecoderConfig

LAYERS = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")
HEAD = "unembed.head"

Quantize = Annotated[str | None, typer.Option(metavar="HOW", help="int8, llm-int8 or llm-int8-pooled.")]
Layer = Annotated[str, typer.Option(metavar="NAME", help=f"The layer: {', '.join(LAYERS)}, or {HEAD}.")]
Sites = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN", help='Compare these too, as "*.attn.pattern"; may be repeated.')
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
    no_special_tokens: NoSpecial = False,
) -> None:
    """Compare full precision with 8 bits: values, next token, bytes.

    The two models are loaded one after the other, never both at once.
    """
    read = read_texts(texts)
    with busy("starting") as report:
        from cutaway.analysis.compare import compared_sites
        from cutaway.ground.select import select
        from cutaway.show.compare import FullRun, comparison, draw_comparison

        config = options.config(report)
        name = _layer_name(config, block, layer)  # a wrong name raises before weights are read
        chosen = select(config, [*compared_sites(config), *(sites or [])])
        unquantized = replace(options, quantize="none").load(report)
        full = FullRun.of(unquantized, unquantized.tokens(read, not no_special_tokens), name, chosen)
        del unquantized
        gc.collect()
        data = comparison(options.load(report, notes=False), full, name)
    print_json(data) if options.as_json else print_lines(draw_comparison(data))


def _layer_name(config: "DecoderConfig", block: int, layer: str) -> str:
    if layer == HEAD:
        return HEAD
    if layer not in LAYERS:
        raise BadArgument(f"--layer {layer}", f"{', '.join(LAYERS)} or {HEAD}", "choose one of these layers")
    if not 0 <= block < config.n_layers:
        raise BadArgument(f"--block {block}", f"0 to {config.n_layers - 1}", "choose a block that this model has")
    return f"blocks.{block}.{layer}"
