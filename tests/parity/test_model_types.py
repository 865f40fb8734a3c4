"""Random configurations of every model type against transformers' eager attention, in float32: logits and every block's
residual stream, padded left and right, cached and not; in 8 bits they run, save, reopen; greedy text is the same."""

import inspect
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cutaway.analysis.certificate import certify
from cutaway.ground.sites import block_exit
from cutaway.lm import LM, load
from cutaway.model.cache import Cache
from cutaway.model.decoder import Decoder
from cutaway.quant.linear import Int8Linear
from cutaway.text.pieces import Tokens
from cutaway.trace.pass_recorder import Recorder
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.families import supported
from cutaway.weights.load import load_decoder
from cutaway.weights.save import save
from tests.model_types import OPTIONS, SEEDS, drawn
from tests.tiny import batch, block_outputs, build

ROWS = [[3, 5, 7, 2, 9, 4, 10, 1, 6], [8, 3, 3, 6, 4]]
NEAR = 1e-4


def test_every_supported_type_is_tested():
    assert sorted(OPTIONS) == supported()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("model_type", OPTIONS)
def test_a_random_configuration_equals_transformers(model_type: str, seed: int, tmp_path: Path):
    theirs = build(drawn(model_type, seed), seed, 0.15, "eager")
    theirs.save_pretrained(tmp_path)
    decoder = load_decoder(open_checkpoint(tmp_path), dtype=torch.float32, device="cpu")
    for side in ("right", "left"):
        tokens = batch(*ROWS, side=side)
        real = tokens.mask.bool()
        streams, logits = recorded(decoder, tokens)
        with torch.inference_mode(), block_outputs(theirs) as expected_streams:
            expected = theirs(**inputs(theirs, tokens)).logits
        assert near(logits[real], expected[real])
        for ours, other in zip(streams, expected_streams, strict=True):
            assert near(ours[real], other[real])
        assert near(cached(decoder, tokens)[real], expected[real])


def near(ours: Tensor, theirs: Tensor) -> bool:
    """Within 1e-4, and within 1e-4 standard deviations where these are small: a bound that every model can fail."""
    return bool((ours - theirs).abs().max() < NEAR * theirs.std().clamp(max=1))


def inputs(model: Any, tokens: Tokens) -> dict[str, Tensor]:
    given = {"input_ids": tokens.ids, "attention_mask": tokens.mask}
    by_position = "position_ids" in inspect.signature(model.base_model.forward).parameters
    return given | ({"position_ids": tokens.positions.clamp(min=0)} if by_position else {})


def recorded(decoder: Decoder, tokens: Tokens) -> tuple[list[Tensor], Tensor]:
    """The residual stream after every block, and the logits."""
    exits = [block_exit(decoder.config, i) for i in range(decoder.config.n_layers)]
    recorder = Recorder(exits)
    with torch.inference_mode():
        logits = decoder(tokens, tap=recorder)
    return [recorder.parts[name][0] for name in exits], logits


def cached(decoder: Decoder, tokens: Tokens) -> Tensor:
    """The logits of a first pass and of new tokens, one or two at a time."""
    width = tokens.ids.shape[1]
    cache = Cache(decoder.config.n_layers, len(tokens.ids), width)
    ends = [0, width - 5, width - 4, width - 2, width - 1, width]
    with torch.inference_mode():
        parts = [
            decoder(Tokens(*(getattr(tokens, name)[:, a:b] for name in ("ids", "mask", "positions"))), cache)
            for a, b in pairwise(ends)
        ]
    return torch.cat(parts, 1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("model_type", OPTIONS)
def test_greedy_text_is_the_same_and_8_bits_save_and_reopen(model_type: str, seed: int, tmp_path: Path):
    short = {"original_max_position_embeddings": 32} if model_type == "phi3" else {}  # beyond, transformers begins anew
    theirs = build(drawn(model_type, seed, **short), seed, attention="eager")
    theirs.save_pretrained(tmp_path / "model")
    full, int8 = (load(tmp_path / "model", quantize=mode, device="cpu") for mode in (None, "int8"))
    ids = torch.tensor([ROWS[0]])
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    assert written(full, ids) == expected[0, ids.shape[1] :].tolist()
    save(int8.decoder, int8.checkpoint, tmp_path / "saved", name="random")
    again = load(tmp_path / "saved", device="cpu")
    assert torch.equal(again.logits(ids), int8.logits(ids)) and written(again, ids) == written(int8, ids)
    stored = load(tmp_path / "model", quantize=None, device="cpu")
    dequantize(int8.decoder, stored.decoder)  # a sharp softmax may part them from the full weights, and does
    assert torch.cosine_similarity(int8.logits(ids), stored.logits(ids), -1).min() > 0.99
    for lm in (int8, full):
        failed = [line for line in certify(lm.decoder, batch(*ROWS), lm.checkpoint) if not line.passed]
        assert not failed


def dequantize(int8: Decoder, full: Decoder) -> None:
    """Put the weights that the codes stand for into the model in full precision."""
    for name, layer in int8.named_modules():
        if isinstance(layer, Int8Linear):
            scale = layer.scale.float().repeat_interleave(32, 1)[:, : layer.in_features]
            full.get_submodule(name).weight = torch.nn.Parameter(layer.codes.float() * scale, requires_grad=False)


def written(lm: LM, ids: Tensor) -> list[int]:
    return [int(step.ids[0]) for step in lm.generate(ids, max_new_tokens=12).steps]
