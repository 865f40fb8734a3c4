"""Is it the model that its makers meant? The same checkpoint in transformers' own modules, eager attention.

Largest |difference| over largest |value|, at every block's output and at the logits, in float32 and in float64: a
wiring error (a transposed weight, shifted positions, a lost bias) is as large in float64, rounding is not. Trust it as
far as transformers' implementation of the family. The only file that runs transformers' models; it does not know text.
"""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.analysis.certificate import Line, relative
from cutaway.ground.errors import BadArgument
from cutaway.ground.sites import block_exit
from cutaway.model.decoder import Decoder
from cutaway.quant.explain import int8_layers
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-5}
WHY = "transformers takes softmax and angles in float32 even in float64: that much rounding stays"


def against_transformers(decoder: Decoder, path: Path, tokens: Tokens) -> Iterator[Line]:
    """Two lines for each dtype. path: a folder or a .gguf file.

    Raises BadArgument for a model in 8 bits, or files that transformers cannot load.
    """
    if int8_layers(decoder):
        do = "load it with quantize=None, or --quantize none"
        raise BadArgument("a model in 8 bits", "one in full precision, as transformers runs it", do)
    model = _loaded(path)
    for dtype, tolerance in TOLERANCE.items():
        ours = deepcopy(decoder).to(device="cpu", dtype=dtype)
        blocks, logits = _theirs(model.to(dtype), tokens)
        name, why = str(dtype).removeprefix("torch."), WHY if dtype is torch.float64 else ""
        sites = [block_exit(decoder.config, layer) for layer in range(decoder.config.n_layers)]
        trace = run(ours, tokens.to("cpu"), [*sites, "logits"])
        real_BT = tokens.mask.bool().cpu()
        pairs = zip(sites, blocks, strict=True)
        errors = {site: relative(trace[site][real_BT], block[real_BT]) for site, block in pairs}
        worst = max(errors, key=lambda site: errors[site])
        yield Line(f"every block = transformers' in {name}", errors[worst], tolerance, worst, why)
        error = relative(trace["logits"][real_BT], logits[real_BT])
        yield Line(f"logits = transformers' in {name}", error, tolerance, "logits", why)


def _loaded(path: Path) -> Any:
    """transformers' model in float32, read once: it takes long to read a GGUF."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    where: dict[str, Any] = {"pretrained_model_name_or_path": path}
    if path.is_file():
        where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            **where,
            dtype=torch.float32,
            attn_implementation="eager",
            experts_implementation="eager",
            local_files_only=True,
        ).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        found = f"{path}, which transformers cannot load ({str(error).splitlines()[0][:120]})"
        expected = "a model in full precision that it can"
        raise BadArgument(found, expected, "check it without --against") from error


def _theirs(model: Any, tokens: Tokens) -> tuple[list[Tensor], Tensor]:
    """The outputs of transformers' blocks, by forward hooks, and its logits; 0 on padding.

    Each text runs alone: beside padding that a window hides from itself, transformers' float64 gives NaN.
    """
    base: Any = getattr(model.base_model, "decoder", model.base_model)
    blocks: Any = next(getattr(base, name) for name in ("h", "layers", "blocks") if hasattr(base, name))
    ids_BT, real_BT, values = tokens.ids.cpu(), tokens.mask.bool().cpu(), []
    texts = [_alone(model, blocks, ids_T[real_T]) for ids_T, real_T in zip(ids_BT, real_BT, strict=True)]
    for parts in zip(*texts, strict=True):
        value = parts[0].new_zeros((*real_BT.shape, parts[0].shape[-1]))
        value[real_BT] = torch.cat(parts, 1)[0]
        values.append(value)
    return values[:-1], values[-1]


def _alone(model: Any, blocks: Any, ids_T: Tensor) -> list[Tensor]:
    """What each block returns for one text, and the logits, each [1, T, ...]."""
    outputs: list[Tensor] = []

    def record(module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    hooks = [block.register_forward_hook(record) for block in blocks]
    try:
        with torch.no_grad():
            logits = model(input_ids=ids_T[None]).logits
    finally:
        for hook in hooks:
            hook.remove()
    return [*outputs, logits]
