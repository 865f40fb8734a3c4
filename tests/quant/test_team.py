"""Threads kept together over a pass: the same bits as without, whatever is raised, deleted or nested meanwhile."""

import gc
import threading
from pathlib import Path

import pytest
import torch

from cutaway.model.cache import Cache
from cutaway.quant import native
from cutaway.quant.linear import Int8Linear
from cutaway.quant.steps import NativeSteps
from cutaway.text.pieces import Tokens
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.load import load_decoder
from tests.quant.helpers import threads
from tests.tiny import layer, noise, saved

pytestmark = pytest.mark.skipif(not native.available, reason=f"no native library: {native.MISSING}")
WIDTH = 512  # products large enough for a second thread


def layers(count: int = 4) -> list[Int8Linear]:
    return [Int8Linear(*layer(WIDTH, WIDTH, seed=i)) for i in range(count)]


def through(chain: list[Int8Linear], x: torch.Tensor) -> list[torch.Tensor]:
    """Every layer's result, each reading the one before."""
    results = []
    for one in chain:
        x = one(x) / WIDTH**0.5
        results.append(x)
    return results


@pytest.mark.parametrize("tokens", [1, 3, 40])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_team_gives_the_same_bits(tokens: int, count: int):
    chain, x = layers(), noise(tokens, WIDTH, scale=3)
    expected = through(chain, x)
    with threads(count):
        for _ in range(4):  # from the second time on, each thread fetches what comes next
            results = native.together(lambda: through(chain, x))
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(results, expected, strict=True))


def test_what_is_raised_inside_is_raised_outside_and_leaves_the_threads_usable():
    def fails() -> None:
        raise KeyboardInterrupt

    with threads(2):
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                native.together(fails)
        with pytest.raises(ZeroDivisionError):
            native.together(lambda: 1 // 0)
        assert native.together(lambda: 5) == 5


def test_a_team_in_a_team_and_torch_in_a_team():
    chain, x = layers(), noise(1, WIDTH)
    expected, product = through(chain, x)[-1], noise(300, 300) @ noise(300, 300, seed=1)
    with threads(2):
        inner, own = native.together(
            lambda: (native.together(lambda: through(chain, x)[-1]), noise(300, 300) @ noise(300, 300, seed=1))
        )
    assert torch.equal(inner, expected) and torch.allclose(own, product, atol=1e-4)


def test_a_layer_may_go_while_others_fetch_what_follows_it():
    chain, x = layers(6), noise(1, WIDTH)

    def whole() -> None:
        through(chain, x)

    def pass_and_delete() -> None:
        through(chain[:-2], x)
        del chain[-1]
        gc.collect()

    with threads(2):
        for _ in range(20):
            native.together(whole)
            native.together(pass_and_delete)
            chain.append(layers(1)[0])


def test_two_python_threads_have_a_team_each():
    chain, x = layers(), noise(1, WIDTH)
    expected = through(chain, x)[-1]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(10):
            if not torch.equal(native.together(lambda: through(chain, x)[-1]), expected):
                wrong.append(number)

    with threads(2):
        workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not wrong


@pytest.mark.parametrize(("mode", "together"), [("int8", True), ("int8-pooled", True), ("int8-weight", True)])
def test_a_decoder_keeps_its_threads_together_where_the_library_multiplies(mode: str, together: bool, tmp_path: Path):
    checkpoint = open_checkpoint(saved("llama-gqa", tmp_path)[0])
    decoder = load_decoder(checkpoint, dtype=torch.float32, device="cpu", quantize=mode)
    assert isinstance(decoder.steps, NativeSteps) and decoder.steps.together is together
    tokens, one = Tokens.from_ids([[3, 5, 7]]), Tokens.from_ids([[4]])

    def step() -> torch.Tensor:
        cache = Cache(decoder.config.n_layers, 1, 8)
        with torch.inference_mode():
            decoder(tokens, cache)
            return decoder(one, cache)

    with threads(2):
        mine = step()
    decoder.steps.together = False
    assert torch.equal(mine, step())
