"""Asks about 8 bits: the same tokens in full precision beside the 8 bits, a layer's codes, and each layer's damage.

The model in the other precision is loaded once for all readers, when first asked for; `full` says before what it takes.
It does not know how a figure is measured.
"""

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cutaway.analysis.compare import Difference, compare_sites, most_probable, next_tokens
from cutaway.apps.server.asks import Answer, ask
from cutaway.apps.server.asks.reading import read_values
from cutaway.apps.server.interrupt import interruptible
from cutaway.apps.server.runs import Run, lines, spelled
from cutaway.apps.server.session import MB, Call
from cutaway.ground.errors import BadArgument
from cutaway.ground.sites import all_sites
from cutaway.lm import LM
from cutaway.model.architecture import nbytes
from cutaway.model.parts import dtype_of
from cutaway.quant.explain import HEAD, Explained, explain, int8_layers, layer_input, layer_input_sites, mode_of
from cutaway.quant.panels import panels_shape
from cutaway.show.codes import one_output
from cutaway.trace.view import View
from cutaway.weights.opening import reopened

ROWS, COLUMNS = 64, 128  # of the codes in one answer
LARGEST = 12  # inputs that are listed


@ask("full")
def full(call: Call, *, run: str | None = None) -> Answer:
    """What the model in the other precision takes, before it is loaded, and what this one takes (own)."""
    took = call.served.shared.setdefault("took", {})
    models = [call.lm, *([call.served.shared["other"]] if "other" in call.served.shared else [])]
    names = next((list(layers) for each in models if (layers := int8_layers(each.decoder))), [])
    seconds = {what: took.get(what) for what in ("load", "compare", "damage")}
    loaded = "other" in call.served.shared
    sizes = {"bytes": _bytes(call.lm), "own": nbytes(call.lm.decoder)}
    return Answer(sizes | {"loaded": loaded, "seconds": seconds, "layers": names})


@ask("compare")
def compare(call: Call, *, run: str) -> Answer:
    """Full precision against 8 bits: every site of every block, and the next token at each position."""
    kept: Run = call.runs[run]
    whole, eight = _both(call, run)
    with _timed(call, "compare"):
        sites = [
            {"site": site, "relative": apart.relative_error, "cosine": apart.cosine, "max": apart.largest}
            for site, apart in _differences(call, whole, eight).items()
        ]
        found = next_tokens(whole.read("logits"), eight.read("logits"), top=1)
    flips = [
        {"position": at} | {name: _likeliest(call.lm, view, at) for name, view in (("full", whole), ("eight", eight))}
        for at, same in enumerate(found.agree[0])
        if not same
    ]
    imports = "from cutaway.analysis.compare import compare_sites, next_tokens"
    asked = ['print(next_tokens(full.read("logits"), eight.read("logits")).kl[0])',
             'for site, apart in compare_sites(full.read("*"), eight.read("*")).items():',
             '    print(f"{site:<30} {apart.relative_error:.3g}")']  # fmt: skip
    python = [imports, *_both_python(call, kept), *asked]
    if not kept.edits:
        python = [f"print(lm.compare({spelled(kept.text, kept.chat)}))"]
    data = {"sites": sites, "flips": flips, "kl": list(found.kl[0]), "agreement": found.top1_agreement}
    return Answer(data, python=lines(call, *python))


@ask("compare_values")
def compare_values(
    call: Call, *, run: str, site: str, head: int | None = None, start: int = 0, end: int | None = None
) -> Answer:
    """One site's values in 8 bits and in full precision."""
    whole, eight = _both(call, run)
    arrays, said, read = {}, {}, ""
    for name, view in (("eight", eight), ("full", whole)):
        arrays[name], said[name], read = read_values(view, call.lm, site, head, start, end)
    ends = {end: {name: each[end] for name, each in said.items()} for end in ("min", "max", "nan", "inf")}
    data = {name: said["eight"][name] for name in ("site", "shape", "axes", "start", "end")} | ends
    apart = " - ".join(read.replace("view[", f"{name}[", 1) for name in ("eight", "full"))
    return Answer(data, arrays, lines(call, *_both_python(call, call.runs[run]), apart))


@ask("layer")
def layer(
    call: Call, *, run: str, layer: str, position: int, row: int = 0, column: int = 0, error: bool = False
) -> Answer:
    """A linear layer opened to its codes at one token: a window of the weight, the input, one output as codes.

    error: also each large input's share of the layer's error; it needs the weights in full precision.
    """
    kept: Run = call.runs[run]
    at, lm = (0, kept.position(position)), call.lm
    layers = int8_layers(lm.decoder)
    if layer not in layers:
        found = f"the layer {layer[:60]!r}" if layers else "a model in full precision"
        expected = f"a layer in 8 bits, such as {next(iter(layers))}" if layers else "a model with layers in 8 bits"
        raise BadArgument(found, expected, "name another layer" if layers else "serve it in 8 bits")
    site = layer_input_sites(lm.config)[layer]
    x_BTK = layer_input(lm.decoder, layer, kept.view[site])
    original: Any = _other(call).decoder.get_submodule(layer).weight if error else None
    inside = explain(layers[layer], x_BTK, original)
    rows, columns = inside.weight_codes.shape
    if not (0 <= row < rows and 0 <= column < columns):
        raise BadArgument(f"row {row}, column {column}", f"of {rows} × {columns}", "choose others")
    data, x_K = one_output(inside, at, row), x_BTK[at]
    shares_K = inside.error_shares(at)
    largest = x_K.abs().topk(min(LARGEST, len(x_K))).indices.tolist()
    codes_K = inside.activation_codes[at]
    data |= {
        "name": layer, "site": site, "shape": [rows, columns], "scheme": inside.mode, "window": [row, column],
        "input": {"largest": [{"index": k, "value": float(x_K[k]), "code": int(codes_K[k])} for k in largest]},
        "error": _error(inside, at, shares_K, largest), "outliers": int(inside.outlier[at].sum()),
    }  # fmt: skip
    arrays = {
        "codes": inside.weight_codes[row : row + ROWS, column : column + COLUMNS],
        "scales": inside.weight_scale[row : row + ROWS].float().reshape(min(ROWS, rows - row), -1),
        "input": x_K, "activation_codes": codes_K, "activation_scales": inside.activation_scale[at].reshape(-1),
    }  # fmt: skip
    return Answer(data, arrays, _layer_python(call, kept, layer, site, (at, row, column), error))


@ask("damage")
def damage(call: Call, *, text: str | None = None, run: str | None = None) -> Answer:
    """What each layer's rounding alone does to the next token."""
    if (text is None) == (run is None):
        raise BadArgument("a text and a run" if text else "no text", "one of the two", "send a text, or a run")
    given: Any = call.text(text) if text is not None else call.runs[str(run)].tokens
    whole = call.lm if not int8_layers(call.lm.decoder) else _other(call)
    mode = mode_of(call.lm.decoder) or "int8"
    with _timed(call, "damage"):
        found = whole.damage(given, mode, progress=call.progress)
    kept = None if run is None else call.runs[run]
    asked = spelled(kept.text, kept.chat) if kept else repr(text)
    loaded = f"import cutaway\n\nlm = cutaway.load({_in_other(call)})" if whole is not call.lm else lines(call)
    return Answer(found.to_dict(), python=f"{loaded}\nprint(lm.damage({asked}, {mode!r}))")


def _layer_python(
    call: Call, kept: Run, layer: str, site: str, where: tuple[tuple[int, ...], int, int], error: bool
) -> str:
    """Lines that print what is shown of an opened layer."""
    at, row, column = where
    other = [f"other = cutaway.load({_in_other(call)})"] if error else []
    read = f'int8_layers(lm.decoder)["{layer}"], layer_input(lm.decoder, "{layer}", view["{site}"])'
    read += f', other.decoder.get_submodule("{layer}").weight' if error else ""
    shown = [f"print(inside.weight_codes[{row}:{row + ROWS}, {column}:{column + COLUMNS}])",
             f"print(inside.weight_scale[{row}:{row + ROWS}])",
             f"print(inside.x[{at}], inside.activation_codes[{at}], inside.activation_scale[{at}])",
             f"print(inside.output({at}, {row}))"]  # fmt: skip
    shown += [f"print(inside.error[{at}], inside.error_shares({at}))"] if error else []
    imports = "from cutaway.quant.explain import explain, int8_layers, layer_input"
    return lines(call, imports, *kept.python(), *other, f"inside = explain({read})", *shown)


def _differences(call: Call, whole: View, eight: View) -> dict[str, Difference]:
    """Block by block, so that no more than one block's values are held."""
    names, found = list(all_sites(call.lm.config)), dict[str, Difference]()
    parts = [[name for name in names if not name.startswith("blocks.")]]
    parts += [[n for n in names if n.startswith(f"blocks.{i}.")] for i in range(call.lm.config.n_layers)]
    for done, part in enumerate(parts):
        call.progress(done, len(parts), "comparing the blocks")
        found |= compare_sites(whole.read(part), eight.read(part))
    return {name: found[name] for name in names}


def _likeliest(lm: LM, view: View, at: int) -> dict[str, Any]:
    id, prob = most_probable(view.logits_at(at)[0], 1)[0]
    return {"id": id, "text": lm.piece(id), "prob": prob}


def _error(inside: Explained, at: tuple[int, ...], shares_K: Tensor | None, largest: list[int]) -> Any:
    whole = inside.error
    if whole is None or shares_K is None:
        return None
    worst = shares_K.abs().topk(min(LARGEST, len(shares_K))).indices.tolist()
    listed = [{"index": k, "share": float(shares_K[k])} for k in dict.fromkeys([*largest, *worst])]
    return {"relative": float(whole[at]), "shares": listed}


def _both(call: Call, run: str) -> tuple[View, View]:
    """The run's text in full precision and in 8 bits, with the same edits; the other one is kept beside the run."""
    kept: Run = call.runs[run]
    if kept.full is None:
        full = _other(call).view(kept.tokens, edits=kept.edits)
        call.runs.grow(run, kept.nbytes)  # after the pass: one that is cancelled keeps nothing
        kept.full = full
    return (kept.full, kept.view) if int8_layers(call.lm.decoder) else (kept.view, kept.full)


def _other(call: Call) -> LM:
    """The served model in full precision; of a model in full precision, in 8 bits. Loaded once for all readers.

    Raises BadArgument for one that takes more memory than this server allows.
    """
    shared, lm, most = call.served.shared, call.lm, call.limits.model_bytes
    if "other" not in shared:
        if (size := _bytes(lm)) > most:
            found = f"{size / MB:,.0f} MB for this model in the other precision"
            raise BadArgument(found, f"at most {most / MB:,.0f} MB beside the served one", "serve a smaller model")
        mode, dtype = None if int8_layers(lm.decoder) else "int8", dtype_of(lm.decoder)
        load: Callable[..., Any] = reopened
        with _timed(call, "load"), torch.inference_mode(False):
            decoder = load(lm.checkpoint, lm.name, quantize=mode, dtype=dtype, device=lm.device, progress=call.progress)
        interruptible(decoder, call.served.check)
        shared["other"] = LM(decoder, lm.checkpoint, lm.name)
        if lm.has_tokenizer:
            vars(shared["other"])["tokenizer"] = lm.tokenizer
    return shared["other"]


def _bytes(lm: LM) -> int:
    """Of the model in the other precision: about a byte a weight in 8 bits, with the groups' scales."""
    eight, more = int8_layers(lm.decoder), 0
    for name in layer_input_sites(lm.config):
        layer: Any = lm.decoder.get_submodule(name)
        tied = name == HEAD and lm.config.tied_head  # in full precision the embedding's table
        numbers = layer.out_features * layer.in_features
        floats = 0 if tied else numbers * lm.decoder.embed.token.weight.element_size()
        if name in eight:
            more += floats - eight[name].nbytes + (0 if layer.bias is None else layer.bias.nbytes)
        elif not eight:
            more += math.prod(panels_shape(layer.out_features, layer.in_features)) - floats
    return nbytes(lm.decoder) + more


def _in_other(call: Call) -> str:
    """The arguments with which cutaway.load gives the model in the other precision."""
    mode = None if int8_layers(call.lm.decoder) else "int8"
    loaded = re.sub(r"(, )?quantize=[^,]+", "", call.served.loaded).removeprefix(", ")
    return ", ".join(part for part in (loaded, f"quantize={mode!r}") if part)


def _both_python(call: Call, kept: Run) -> list[str]:
    """Lines that give a run's views in the two precisions, as `eight` and `full`, where `lm` is the served model."""
    own, other = ("eight", "full") if int8_layers(call.lm.decoder) else ("full", "eight")
    again = kept.expression.replace("lm.view(", "other.view(", 1)  # what its edits take from other runs is of `lm`
    return [*kept.python(own), f"other = cutaway.load({_in_other(call)})", f"{other} = {again}"]


@contextmanager
def _timed(call: Call, what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    call.served.shared.setdefault("took", {})[what] = time.perf_counter() - start
