"""The native small steps inside a whole decoder: every family, cached steps and padding, as the plain ones give."""

from pathlib import Path

import pytest
import torch

from cutaway.ground.shapes import sizes
from cutaway.ground.sites import all_sites
from cutaway.model.cache import Cache
from cutaway.model.decoder import Decoder
from cutaway.model.steps import plain
from cutaway.model.tap import Tap, Untapped, untapped
from cutaway.quant import native
from cutaway.quant.steps import NativeSteps
from cutaway.text.pieces import Tokens
from cutaway.trace.generation_recorder import Growing
from cutaway.trace.pass_recorder import Recorder
from cutaway.trace.plan import Row, plan
from cutaway.trace.run import run
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.load import load_decoder
from tests.tiny import CONFIGS, saved

pytestmark = pytest.mark.skipif(not native.available, reason=f"no native library: {native.MISSING}")
PROMPT = Tokens.from_ids([[0, 0, 3, 5, 7, 2], [8, 3, 3, 6, 4, 9]], torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6]))


def outputs(decoder: Decoder, tap: Tap = untapped) -> torch.Tensor:
    """Logits of a left-padded prompt and of two cached steps after it."""
    cache = Cache(decoder.config.n_layers, 2, 8)
    with torch.inference_mode():
        parts = [decoder(PROMPT, cache, tap)[:, 2:]]
        for place in range(2):
            ids = torch.tensor([[4], [10]])
            positions = PROMPT.positions[:, -1:] + 1 + place
            parts.append(decoder(Tokens(ids, torch.ones_like(ids), positions), cache, tap))
    return torch.cat(parts, 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_native_steps_give_what_plain_steps_give(name: str, tmp_path: Path):
    checkpoint = open_checkpoint(saved(name, tmp_path)[0])
    # In full precision, so that no rounding to a code makes a small difference large.
    decoder = load_decoder(checkpoint, dtype=torch.float32, device="cpu")
    expected = outputs(decoder)
    decoder.use(NativeSteps())
    assert (outputs(decoder) - expected).abs().max() < 1e-4
    decoder.use(plain)
    assert torch.equal(outputs(decoder), expected)


@pytest.mark.parametrize("watched", ["all", "all but scores and pattern"])
@pytest.mark.parametrize("name", CONFIGS)
def test_watched_native_steps_show_what_explicit_ones_compute(name: str, watched: str, tmp_path: Path):
    checkpoint = open_checkpoint(saved(name, tmp_path)[0])
    decoder = load_decoder(checkpoint, dtype=torch.float32, device="cpu")
    softmax = ("attn.scores", "attn.pattern")
    sites = [site for site in all_sites(decoder.config) if watched == "all" or not site.endswith(softmax)]
    explicit, native = Recorder(sites), Recorder(sites)
    decoder.use(plain)
    outputs(decoder, explicit)
    decoder.use(NativeSteps())
    logits = outputs(decoder, native)
    for site in sites:
        for expected, found in zip(explicit.parts[site], native.parts[site], strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4, msg=lambda m, s=site: f"{s}: {m}")
    if watched != "all":
        assert torch.equal(logits, outputs(decoder)), "watched or not, the same bits"


def test_a_quantized_model_takes_the_native_steps_and_gradients_the_plain_ones(tmp_path: Path):
    checkpoint = open_checkpoint(saved("llama-gqa", tmp_path)[0])
    decoder = load_decoder(checkpoint, dtype=torch.float32, device="cpu", quantize="int8")
    assert isinstance(decoder.blocks[0].mlp.steps, NativeSteps)
    entered: list[torch.Tensor] = []

    class Enter(Untapped):
        """Makes the first residual stream a leaf with a gradient."""

        def __call__(self, name: str, value: torch.Tensor) -> torch.Tensor:
            if name != "blocks.0.resid_pre":
                return value
            entered.append(value.detach().requires_grad_())
            return entered[0]

        def changes(self, *names: str) -> bool:
            return "blocks.0.resid_pre" in names

    decoder(PROMPT, tap=Enter())[:, -1].logsumexp(-1).sum().backward()
    gradient = entered[0].grad
    assert gradient is not None and gradient.isfinite().all() and gradient.abs().max() > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_in_8_bits_watched_or_not_the_bits_are_the_same(name: str, tmp_path: Path):
    """Steps joined into one, steps that write what is inside where it is kept, and one value after another."""
    checkpoint = open_checkpoint(saved(name, tmp_path)[0])
    decoder = load_decoder(checkpoint, dtype=torch.float32, device="cpu", quantize="int8")
    sites = [site for site in all_sites(decoder.config) if not site.endswith(("attn.scores", "attn.pattern"))]
    table, config = all_sites(decoder.config), decoder.config
    lengths = sizes(config) | {"B": 2, "T": 8, "1": 1}
    rows = [Row(site, tuple(lengths[axis] for axis in table[site].shape.split()), torch.float32) for site in sites]
    each, growing = Recorder(sites), Growing(rows, 8, torch.device("cpu"))
    unseen = outputs(decoder)
    assert torch.equal(outputs(decoder, each), unseen) and torch.equal(outputs(decoder, growing), unseen)
    for site in sites:
        assert torch.equal(torch.cat(each.parts[site], 1), growing.values[site]), site


@pytest.mark.parametrize("only", ["*", "*.pattern", "*.scores", ["*.attn.z", "*.attn.k", "*.ln2.scale", "logits"]])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_trace_written_where_it_is_kept_is_what_each_tap_call_shows(name: str, only: str | list[str], tmp_path: Path):
    checkpoint = open_checkpoint(saved(name, tmp_path)[0])
    decoder = load_decoder(checkpoint, dtype=torch.float32, device="cpu", quantize="int8")
    for prompt in (PROMPT, Tokens.from_ids([[5]])):
        each = Recorder(all_sites(decoder.config))
        with torch.inference_mode():
            decoder(prompt, tap=each)
        trace = run(decoder, prompt, only)
        assert len(trace) > 0
        for site, value in trace.items():
            assert torch.equal(value, each.parts[site][0]), site


@pytest.mark.parametrize("name", CONFIGS)
def test_a_prompt_of_one_text_is_written_where_its_generation_is_kept(name: str, tmp_path: Path):
    checkpoint = open_checkpoint(saved(name, tmp_path)[0])
    decoder = load_decoder(checkpoint, dtype=torch.float32, device="cpu", quantize="int8")
    sites = [site for site in all_sites(decoder.config) if not site.endswith(("attn.scores", "attn.pattern"))]
    rows = plan(decoder.config, sites, 1, 7).rows
    each, growing = Recorder(sites), Growing(rows, 7, torch.device("cpu"))
    for tap in (each, growing):
        cache = Cache(decoder.config.n_layers, 1, 7)
        with torch.inference_mode():
            decoder(Tokens.from_ids([[8, 3, 3, 6, 4]]), cache, tap)
            for place in (5, 6):
                ids = torch.tensor([[place]])
                decoder(Tokens(ids, torch.ones_like(ids), torch.tensor([[place]])), cache, tap)
    for site in sites:
        assert torch.equal(torch.cat(each.parts[site], 1), growing.values[site]), site


def test_a_hook_sees_its_module_called_with_its_own_values(tmp_path: Path):
    checkpoint = open_checkpoint(saved("llama", tmp_path)[0])
    decoder = load_decoder(checkpoint, dtype=torch.float32, device="cpu", quantize="int8")
    block, recorder = decoder.blocks[1], Recorder(["blocks.1.ln2.out", "blocks.1.attn_out"])
    seen: list[torch.Tensor] = []
    hooks = [m.register_forward_hook(lambda module, given, out: seen.append(out)) for m in (block.attn.out, block.ln2)]
    expected = outputs(decoder, recorder)
    explicit, seen = list(seen), []
    assert torch.equal(outputs(decoder), expected)
    for hook in hooks:
        hook.remove()
    for found, watched, site in zip(seen[:2], explicit[:2], ("attn_out", "ln2.out"), strict=True):
        assert torch.equal(found, watched) and torch.equal(found, recorder.parts[f"blocks.1.{site}"][0])
    assert len(seen) == 6 and torch.equal(outputs(decoder), expected)
