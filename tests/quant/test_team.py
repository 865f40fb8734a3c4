"""The thread team of one native call: the same bits with any number of threads, whatever is deleted or runs beside."""

import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import get_args

import pytest
import torch

from cutaway.model.cache import Cache
from cutaway.model.decoder import Decoder
from cutaway.quant import native
from cutaway.quant.formats import Mode
from cutaway.quant.linear import Int8Linear
from cutaway.text.pieces import Tokens
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.load import load_decoder
from tests.quant.helpers import threads
from tests.tiny import build, llama

pytestmark = pytest.mark.skipif(not native.available, reason=f"no native library: {native.MISSING}")


@pytest.fixture(params=get_args(Mode))
def decoder(request: pytest.FixtureRequest, tmp_path: Path) -> Decoder:
    """Wide enough that a second thread computes part of each product."""
    build(llama(hidden_size=256, intermediate_size=512), scale=0.1).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    return load_decoder(checkpoint, dtype=torch.float32, device="cpu", quantize=request.param)


def logits(decoder: Decoder, count: int = 5) -> torch.Tensor:
    """Of some tokens after a prompt: from the second on, each thread fetches what comes next."""
    cache, rows = Cache(decoder.config.n_layers, 1, 16), []
    with torch.inference_mode():
        decoder(Tokens.from_ids([[3, 5, 7]]), cache)
        for position in range(3, 3 + count):
            ids = torch.tensor([[4]])
            rows.append(decoder(Tokens(ids, torch.ones_like(ids), torch.tensor([[position]])), cache))
    return torch.cat(rows)


def test_a_team_gives_the_same_bits(decoder: Decoder) -> None:
    with threads(1):
        expected = logits(decoder)
    for count in (2, 3, 4, 5, 6, 7, 8, 2, 1):
        with threads(count):
            assert torch.equal(logits(decoder), expected), count


def test_no_call_waits_for_ever_beside_busy_processes(decoder: Decoder) -> None:
    """More threads than cores, beside as many processes that never sleep: a hang detector, no claim of speed."""
    same: list[bool] = []

    def work() -> None:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            same.append(torch.equal(logits(decoder), expected))
            time.sleep(0.001)  # the team falls asleep

    with threads(1):
        expected = logits(decoder)
    count = 2 * (os.cpu_count() or 1)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        with threads(count):
            worker = threading.Thread(target=work, daemon=True)
            worker.start()
            worker.join(200)
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert not worker.is_alive() and same and all(same)


def test_a_layer_may_go_while_others_fetch_what_follows_it(decoder: Decoder) -> None:
    with threads(2):
        expected = logits(decoder)
        for _ in range(20):
            down = decoder.blocks[1].mlp.down
            decoder.blocks[1].mlp.down = Int8Linear.from_parts(down.codes.clone(), down.scale, down.bias, down.mode)
            del down
            gc.collect()
            assert torch.equal(logits(decoder, 2), expected[:2])


def test_two_python_threads_have_a_team_each(decoder: Decoder) -> None:
    wrong: list[int] = []
    with threads(2):
        expected = logits(decoder)

        def work(number: int) -> None:
            for _ in range(5):
                if not torch.equal(logits(decoder), expected):
                    wrong.append(number)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not wrong
