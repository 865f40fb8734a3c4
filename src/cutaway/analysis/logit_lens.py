"""The logit lens: what would the model say next if it stopped after this block?

The residual stream after each block goes through the model's own final norm and unembedding (nostalgebraist 2020,
"interpreting GPT: the logit lens"). Trust it for the late blocks: the unembedding was not trained on early streams. A
tuned lens (Belrose et al. 2023, arXiv 2303.08112) maps each stream to the last block's basis first, by one affine probe
for each block; its probes can be loaded. The last row is the model's own answer. This file knows values and weights; it
does not know text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.analysis.many import Average, average, batches
from cutaway.analysis.metric import Metric
from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadCheckpoint
from cutaway.ground.sites import block_exit
from cutaway.model.decoder import Decoder
from cutaway.model.tap import untapped
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run
from cutaway.trace.trace import Trace
from cutaway.trace.view import View
from cutaway.weights.files import open_file


def stream_sites(config: DecoderConfig) -> list[str]:
    """The residual stream before the first block and after each block."""
    return ["blocks.0.resid_pre", *(block_exit(config, layer) for layer in range(config.n_layers))]


Probes = Sequence[tuple[Float[Tensor, "D D"], Float[Tensor, "D"]]]  # weight and bias, for each block's input


def logit_lens(
    trace: Trace, decoder: Decoder, at_B: Int[Tensor, "B"], probes: Probes | None = None
) -> Float[Tensor, "L B V"]:
    """Logits after the embedding and after each block, at one position of each text: [layers + 1, B, V].

    probes: of a tuned lens; each adds weight @ stream + bias to its block's input stream. Raises BadArgument where the
    trace does not hold `stream_sites`.
    """
    rows_B = torch.arange(len(at_B), device=at_B.device)
    streams = [trace[site][rows_B, at_B] for site in stream_sites(decoder.config)]
    return torch.stack(list(_unembedded(streams, decoder, probes)))


@dataclass(frozen=True)
class Lens:
    """The likeliest next tokens after each of `sites`, their probabilities averaged over the texts.

    ids, probability, spread: [layers + 1, top], best first; spread is None of one text. difference: where an answer was
    asked for, its logit, or its logit minus another's, after each site.
    """

    sites: tuple[str, ...]
    ids: Int[Tensor, "L K"]
    probability: Float[Tensor, "L K"]
    spread: Float[Tensor, "L K"] | None
    difference: Average | None
    texts: int


def lens(
    decoder: Decoder,
    tokens: Tokens,
    *,
    position: int = -1,
    top: int = 3,
    probes: Probes | None = None,
    metric: Metric | None = None,
) -> Lens:
    """The logit lens at one position of each text, from 0, or from -1 backwards. metric: of the answer's logits."""
    sites = stream_sites(decoder.config)
    traces = [run(decoder, batch, sites, positions=position) for batch in batches(tokens)]
    streams = [torch.cat([trace[site][:, 0] for trace in traces]) for site in sites]
    best, measured = [], []
    for logits_BV in _unembedded(streams, decoder, probes):
        probs_BV = logits_BV.float().softmax(-1)
        ids = probs_BV.mean(0).topk(min(top, probs_BV.shape[-1])).indices
        of = average(list(probs_BV[:, ids]))
        best.append((ids, of.mean, of.spread))
        measured += [] if metric is None else [metric(logits_BV)]
    ids, means, spreads = zip(*best, strict=True)
    return Lens(
        tuple(sites), torch.stack(ids).cpu(), torch.stack(means).cpu(),
        None if spreads[0] is None else torch.stack(spreads).cpu(),
        average(list(torch.stack(measured, 1).cpu())) if measured else None, len(tokens.ids),
    )  # fmt: skip


@dataclass(frozen=True)
class LensGrid:
    """The likeliest next token after the embedding and each block, at some positions of one text.

    ids, probability: [layers + 1, positions]. top_ids, top_probability: [positions, top], of the last row, which is the
    model's own answer.
    """

    ids: Int[Tensor, "L T"]
    probability: Float[Tensor, "L T"]
    top_ids: Int[Tensor, "T K"]
    top_probability: Float[Tensor, "T K"]


def lens_grid(trace: Trace, decoder: Decoder, positions: range, *, text: int = 0, top: int = 5) -> LensGrid:
    """The logit lens at consecutive positions of one text. The trace must hold `stream_sites`.

    Where it holds the logits too, as a view does, the last row is of them, edits after the last block included.
    Each cell unembeds one stream over the whole vocabulary: ask for the positions that are looked at.
    """
    window, ids, likeliest = slice(positions.start, positions.stop), [], []
    streams = [trace[site][text, window] for site in stream_sites(decoder.config)]
    own = _own_logits(trace, positions, text)
    for logits_TV in chain(_unembedded(streams[: -1 if own else None], decoder, None), own):
        probs_TV = logits_TV.float().softmax(-1)
        best = probs_TV.topk(min(top, probs_TV.shape[-1]))
        ids, likeliest = [*ids, best.indices], [*likeliest, best.values]
    firsts = torch.stack([each[:, 0] for each in ids]), torch.stack([each[:, 0] for each in likeliest])
    return LensGrid(*firsts, ids[-1], likeliest[-1])


def _own_logits(trace: Trace, positions: range, text: int) -> list[Float[Tensor, "T V"]]:
    """The logits of the pass, where the trace has them."""
    if isinstance(trace, View):
        return [trace.logits_between(positions.start, positions.stop)[text]]
    return [trace["logits"][text, positions.start : positions.stop]] if "logits" in trace else []


def _unembedded(
    streams: Sequence[Float[Tensor, "B D"]], decoder: Decoder, probes: Probes | None
) -> Iterator[Float[Tensor, "B V"]]:
    """The logits of each stream."""
    for i, stream_BD in enumerate(streams):
        if probes is not None and i < len(probes):
            weight_DD, bias_D = probes[i]
            stream_BD = stream_BD + stream_BD @ weight_DD.T + bias_D
        with torch.inference_mode():
            yield decoder.unembed(stream_BD[:, None], untapped)[:, 0]


def load_probes(path: Path, config: DecoderConfig) -> Probes:
    """A tuned lens from its file: tensors "0.weight" [D, D], "0.bias" [D], "1.weight" ..., as the tuned-lens package
    writes them in params.pt, or the same as .safetensors. Raises BadCheckpoint for anything else.
    """
    tensors = open_file(path)
    expected = [f"{i}.{part}" for i in range(config.n_layers) for part in ("weight", "bias")]
    d = config.d_model
    for name in expected:
        shape = (d, d) if name.endswith("weight") else (d,)
        if name not in tensors or tuple(tensors[name].shape) != shape:
            found = f"{list(tensors[name].shape)} as" if name in tensors else "no"
            do = "load the lens that was trained for this model"
            raise BadCheckpoint(f"{found} {name!r} in {path}", f"a probe {list(shape)} of each block", do)
    read = {name: tensors[name].read().float() for name in expected}
    return [(read[f"{i}.weight"], read[f"{i}.bias"]) for i in range(config.n_layers)]
