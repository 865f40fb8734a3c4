"""The native small steps inside a whole decoder: every family, cached steps and padding, as the plain ones give."""

from pathlib import Path

import pytest
import torch

from cutaway.ground.sites import all_sites
from cutaway.model.cache import Cache
from cutaway.model.decoder import Decoder
from cutaway.model.steps import plain
from cutaway.model.tap import Tap, untapped
from cutaway.quant import kernels
from cutaway.quant.steps import NativeSteps
from cutaway.text.pieces import Tokens
from cutaway.trace.record import Recorder
from cutaway.weights.load import load_decoder, open_checkpoint
from tests.parity.tiny import CONFIGS, saved

pytestmark = pytest.mark.skipif(not kernels.available, reason=f"no native library: {kernels.MISSING}")
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

    class Enter:
        """Makes the first residual stream a leaf with a gradient."""

        def __call__(self, name: str, value: torch.Tensor) -> torch.Tensor:
            if name != "blocks.0.resid_pre":
                return value
            entered.append(value.detach().requires_grad_())
            return entered[0]

        def wants(self, *names: str) -> bool:
            return False

        def changes(self, *names: str) -> bool:
            return "blocks.0.resid_pre" in names

    decoder(PROMPT, tap=Enter())[:, -1].logsumexp(-1).sum().backward()
    gradient = entered[0].grad
    assert gradient is not None and gradient.isfinite().all() and gradient.abs().max() > 0
