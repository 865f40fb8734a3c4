"""What a decoder is made of: its modules with shapes, parameters and bytes, as rows and as a printed table.

It reads sizes and dtypes only; it does not compute a value, and does not know how a row is coloured.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from cutaway.ground.config import DecoderConfig
from cutaway.ground.layers import all_weights, expert_of
from cutaway.model.decoder import Decoder

NAME = 22  # columns of a printed table that a module's name may take


@dataclass(frozen=True)
class Row:
    """One module with weights of its own.

    count: how often the model has it (blocks are alike, and so are experts: one stands for all); parameters and bytes
    are those of one of them. A module whose weight belongs to another (a tied head) counts none and names it.
    """

    name: str
    shape: str
    dtype: str
    parameters: int
    bytes: int
    count: int = 1
    note: str = ""


def rows(decoder: Decoder) -> list[Row]:
    """The modules in the order in which the data meets them, the blocks and a block's experts once for all.

    By shapes and dtypes alone, so that a decoder without its weights (on no device) has the same rows.
    """
    table = []
    for name, module in decoder.named_modules():
        block, expert = re.match(r"blocks\.(\d+)\.", name), expert_of(name)
        if (block and block[1] != "0") or expert:
            continue
        tensors = {leaf: t for leaf, t in module.state_dict().items() if "." not in leaf}
        if not tensors:
            continue
        head = name == "unembed.head" and decoder.config.tied_head
        shapes, (first, *rest) = _shapes(module), tensors.values()
        own = rest if head and _is_the_table(first, decoder) else [first, *rest]
        table.append(
            Row(
                name=re.sub(r"(blocks|experts)\.\d+\.", r"\1.*.", name),
                shape=" + ".join("×".join(map(str, shape)) for shape in shapes),
                dtype=str(first.dtype).removeprefix("torch."),
                parameters=sum(map(prod, shapes[1:] if head else shapes)),
                bytes=sum(t.nbytes for t in own),
                count=(decoder.config.n_layers if block else 1) * (1 if expert is None else decoder.config.n_experts),
                note=_note(name, module, decoder.config),
            )
        )
    return table


def _shapes(module: nn.Module) -> list[tuple[int, ...]]:
    """Shapes of a module's weight and bias; of a layer in 8 bits not of how the weight is stored."""
    own = {leaf: tuple(t.shape) for leaf, t in module.state_dict().items() if leaf in ("weight", "bias")}
    if "weight" not in own:
        own = {"weight": (int(module.out_features), int(module.in_features)), **own}  # type: ignore[arg-type]
    return list(own.values())


def _is_the_table(head: Tensor, decoder: Decoder) -> bool:
    """Whether a tied head's weight is the embedding's own, not codes made of it."""
    table = decoder.embed.token.weight
    return head.dtype == table.dtype and (head.is_meta or head.data_ptr() == table.data_ptr())


def parameters(decoder: Decoder) -> int:
    """Parameters of the whole model, a tied head counted once."""
    return sum(row.parameters * row.count for row in rows(decoder))


def nbytes(decoder: Decoder) -> int:
    """Bytes of all weights."""
    return sum(row.bytes * row.count for row in rows(decoder))


def facts(config: DecoderConfig) -> str:
    """The model in one line."""
    keys = "1 key" if config.n_kv_heads == 1 else f"{config.n_kv_heads} keys"
    shared = f" sharing {keys}" if config.n_kv_heads != config.n_heads else ""
    shared += " with sinks" * config.attn_sinks
    held = "" if config.mlp_limit is None else f", held within {config.mlp_limit:g}"
    gated = "gated " if config.gated else ""
    gated = f"{config.experts_per_token} of {config.n_experts} experts, each a {gated}" if config.n_experts else gated
    where = "rotary" if config.ropes else "ALiBi" if config.alibi else "learned" if config.learned_positions else "no"
    layers = range(config.n_layers)
    where += " positions" + (_some([config.rope_of(i) for i in layers]) if config.ropes else "")
    windows = [config.window_of(i) or 0 for i in layers]
    window = f" · a window of {max(windows):,}{_some(windows)}" if any(windows) else ""
    return (
        f"{config.n_layers} blocks · width {config.d_model} · {config.n_heads} heads of {config.d_head}{shared}{window}"
        f" · {gated}MLP {config.d_mlp} ({config.activation}{held}) · {where}, {config.n_positions:,} at most"
        f" · {config.vocab_size:,} tokens"
    )


def _some(blocks: Sequence[object]) -> str:
    """In how many of the blocks there is such a thing, where not in all."""
    there = sum(map(bool, blocks))
    return "" if there == len(blocks) else f" in {there} of {len(blocks)} blocks"


def size(count: int | float) -> str:
    """Bytes for people: 1.3 GB, 540.2 MB, 2.1 kB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"


def more(ours: int, theirs: int) -> str:
    """Bytes beside other bytes: "18.0 kB more", "1.3 GB less (52.4 %)"."""
    if ours >= theirs:
        return f"{size(ours - theirs)} more"
    return f"{size(theirs - ours)} less ({(1 - ours / theirs) * 100:.1f} %)"


def table(decoder: Decoder) -> str:
    """The architecture as text, at most 80 columns: the blocks as one tree, notes on lines of their own."""
    return "\n".join([*_wrapped(facts(decoder.config)), "", *tree(rows(decoder))])


def tree(modules: Sequence[Row]) -> list[str]:
    """Lines of at most 80 columns: a head, the modules with those of a block as branches, and the sums."""
    lines = [_line("module", "shape", "dtype", "parameters", "bytes")]
    for i, row in enumerate(modules):
        in_block, opened = row.name.startswith("blocks.*."), i and modules[i - 1].name.startswith("blocks.*.")
        if in_block and not opened:
            lines.append(f"blocks.*  ×{row.count}, all alike; the numbers are those of all")
        last = not any(later.name.startswith("blocks.*.") for later in modules[i + 1 :])
        branch, trunk = ("└─ " if last else "├─ ", "   " if last else "│  ") if in_block else ("", "")
        name = branch + row.name.removeprefix("blocks.*.")
        lines.append(_line(name, row.shape, row.dtype, f"{row.parameters * row.count:,}", size(row.bytes * row.count)))
        if row.note:
            lines.append(f"{trunk:<{NAME}}{row.note}")
    counts = (sum(getattr(row, what) * row.count for row in modules) for what in ("parameters", "bytes"))
    lines.append(_line("all", "", "", f"{next(counts):,}", size(next(counts))))
    return lines


def _line(name: str, shape: str, dtype: str, parameters: str, size: str) -> str:
    return f"{name:<{NAME}}{shape:<19}{dtype:<9}{parameters:>16}{size:>12}".rstrip()


def _wrapped(facts: str) -> list[str]:
    """The facts in lines of at most 80 columns, broken between two of them."""
    lines = [""]
    for fact in facts.split(" · "):
        line = f"{lines[-1]} · {fact}" if lines[-1] else fact
        lines = [*lines[:-1], line] if len(line) <= 80 else [*lines, fact]
    return lines


def _note(name: str, module: nn.Module, config: DecoderConfig) -> str:
    """What the rows of a packed matrix are, and whose numbers a tied head has."""
    if name == "unembed.head" and config.tied_head:
        return "the embedding's table again" + (", in 8 bits" if not isinstance(module, nn.Linear) else "")
    packed = [weight for weight in all_weights(config).values() if weight.module == name]
    rows = ", ".join(f"{weight.symbol[2:].lower()} {weight.rows.stop - weight.rows.start}" for weight in packed)
    experts = f" of each of {config.n_experts} experts" if expert_of(name) is not None else ""
    return f"rows: {rows}{experts}" if len(packed) > 1 else ""
