"""Every model type in 8 bits, a token at a time: the engine gives the bits of the readable blocks, whether it computes
them natively or calls them; which it computes natively is said in the README."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway.ground.sites import all_sites
from cutaway.model.cache import Cache
from cutaway.model.decoder import Decoder, run_blocks
from cutaway.model.ops import torch_ops
from cutaway.model.sinks import Sinks
from cutaway.model.tap import Tap, untapped
from cutaway.quant.engine import bits_by_text
from cutaway.quant.formats import Mode
from cutaway.quant.natively import not_computed, sentence
from cutaway.text.pieces import Tokens
from cutaway.trace.generation_recorder import GenerationRecorder
from cutaway.trace.plan import Row, plan
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.load import load_decoder
from tests.model_types import OPTIONS, SEEDS, drawn
from tests.tiny import batch, build

TOKENS = batch([3, 5, 7, 2, 9, 4, 10, 1, 6], [8, 3, 3, 6, 4], side="left")
UNPADDED = batch([3, 5, 7, 2, 9, 4, 10, 1, 6])
# Halves of the gated matrix that fill panels, and a window that a text outgrows.
OVER = {
    "intermediate_size": 48, "moe_intermediate_size": 48,
    "sliding_window": 6, "use_sliding_window": True, "max_window_layers": 1,
}  # fmt: skip


def decoded(decoder: Decoder, tokens: Tokens, tap: Tap = untapped) -> tuple[torch.Tensor, int]:
    """The logits of new tokens, one at a time after the first three, and how many blocks are computed natively."""
    cache, parts = Cache(decoder.config.n_layers, len(tokens.ids), 9), []
    with torch.inference_mode():
        for span in (slice(0, 3), *(slice(i, i + 1) for i in range(3, 9))):
            one = Tokens(*(getattr(tokens, name)[:, span] for name in ("ids", "mask", "positions")))
            parts.append(decoder(one, cache, tap)[:, -1])
    plan = getattr(decoder.run_blocks, "plan", None)
    return torch.stack(parts), 0 if plan is None else sum(plan.supported)


@pytest.mark.parametrize("model_type", OPTIONS)
@pytest.mark.parametrize("seed", SEEDS[:2])
def test_the_engine_gives_the_bits_of_the_readable_blocks(model_type: str, seed: int, tmp_path: Path):
    """The logits where nobody watches, and every value where all are recorded."""
    over = {name: value for name, value in OVER.items() if name in OPTIONS[model_type]}
    build(drawn(model_type, seed, **over)).save_pretrained(tmp_path)
    decoder = load_decoder(open_checkpoint(tmp_path), dtype=torch.float32, device="cpu", quantize="int8")
    engine, config = decoder.run_blocks, decoder.config
    for tokens in (TOKENS, UNPADDED):
        recorders = [
            GenerationRecorder(plan(config, [*all_sites(config)], len(tokens.ids), 9).rows, 9, tokens.ids.device)
            for _ in range(2)
        ]
        for value in (value for recorder in recorders for value in recorder.values.values()):
            value.zero_()  # what is right of a row of scores is never written
        decoder.run_blocks = engine
        one, native = decoded(decoder, tokens)
        assert native == (0 if not_computed(config) else config.n_layers)
        watched, _ = decoded(decoder, tokens, recorders[0])
        assert ("are computed natively, as many" in sentence(decoder)) is (native > 0)
        decoder.run_blocks = run_blocks
        assert torch.equal(one, decoded(decoder, tokens, recorders[1])[0])
        assert torch.equal(one, watched)
        for site, values in recorders[0].values.items():
            assert same_bits(values, recorders[1].values[site]), site


@pytest.mark.parametrize("mode", ["llm-int8", "llm-int8-pooled"])
@pytest.mark.parametrize("model_type", ["gemma2", "gpt_neox", "bloom", "olmo2", "mixtral", "gpt_oss"])
def test_the_engine_computes_the_other_8_bits_too(model_type: str, mode: Mode, tmp_path: Path):
    over = {name: value for name, value in OVER.items() if name in OPTIONS[model_type]}
    build(drawn(model_type, 0, **over)).save_pretrained(tmp_path)
    decoder = load_decoder(open_checkpoint(tmp_path), dtype=torch.float32, device="cpu", quantize=mode)
    one, native = decoded(decoder, TOKENS)
    assert native == decoder.config.n_layers
    decoder.run_blocks = run_blocks
    assert torch.equal(one, decoded(decoder, TOKENS)[0])


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "olmoe", "gpt_oss"])
def test_a_mixture_s_text_has_the_same_bits_beside_another(model_type: str, tmp_path: Path):
    """The router adds in one order, and each expert computes its tokens by themselves."""
    over = {name: value for name, value in OVER.items() if name in OPTIONS[model_type]}
    build(drawn(model_type, 0, **over)).save_pretrained(tmp_path)
    decoder = load_decoder(open_checkpoint(tmp_path), dtype=torch.float32, device="cpu", quantize="int8")
    with torch.inference_mode():
        both, alone = decoder(TOKENS), decoder(batch([8, 3, 3, 6, 4]))
    assert bits_by_text(decoder) and torch.equal(both[1, -5:], alone[0])


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "bloom", "gpt_neox", "gpt_oss"])
def test_a_value_recorded_alone_is_the_value_recorded_with_all_others(model_type: str, tmp_path: Path):
    over = {name: value for name, value in OVER.items() if name in OPTIONS[model_type]}
    build(drawn(model_type, 0, **over)).save_pretrained(tmp_path)
    decoder = load_decoder(open_checkpoint(tmp_path), dtype=torch.float32, device="cpu", quantize="int8")
    rows = plan(decoder.config, [*all_sites(decoder.config)], 2, 9).rows
    everything = recorded(decoder, rows)
    for row in rows:
        assert same_bits(recorded(decoder, [row])[row.site], everything[row.site]), row.site


def recorded(decoder: Decoder, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    tap = GenerationRecorder(rows, 9, torch.device("cpu"))
    for value in tap.values.values():
        value.zero_()  # what is right of a row of scores is never written
    decoded(decoder, TOKENS, tap)
    return tap.values


def no_norm(block: Any) -> None:
    block.attn.q_norm = None


def sinks(block: Any) -> None:
    block.attn.sinks = Sinks(4)
    torch.nn.init.ones_(block.attn.sinks.weight)


def clamp(block: Any) -> None:
    block.mlp.clamp = (0.1, 1.7)


def clip(block: Any) -> None:
    block.attn.clip = 0.0


def other_ops(block: Any) -> None:
    block.attn.ops = torch_ops


@pytest.mark.parametrize(
    ("change", "native_too"), [(no_norm, False), (clip, False), (other_ops, False), (sinks, True), (clamp, True)]
)
def test_a_block_that_is_not_what_its_config_says(change: Callable[[Any], None], native_too: bool, tmp_path: Path):
    build(drawn("qwen3", 0, intermediate_size=48)).save_pretrained(tmp_path)
    decoder = load_decoder(open_checkpoint(tmp_path), dtype=torch.float32, device="cpu", quantize="int8")
    change(decoder.blocks[1])
    one, native = decoded(decoder, TOKENS)
    assert native == decoder.config.n_layers - (not native_too)
    assert ("the others called: 1 (" in sentence(decoder)) is not native_too
    decoder.run_blocks = run_blocks
    assert torch.equal(one, decoded(decoder, TOKENS)[0])


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Where a text has only padding, both are NaN."""
    return torch.equal(one.nan_to_num(nan=7e7), other.nan_to_num(nan=7e7))
