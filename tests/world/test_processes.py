"""Other processes and threads: forks, spawned children, pickles, copies, an import in a thread, two runs at once."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cutaway.ground.errors import ModelNotFound
from cutaway.lm import LM
from cutaway.model.tap import Untapped
from cutaway.quant import native
from tests.quant.helpers import threads
from tests.world.facts import TEXTS, WAYS, assert_same, opened

Usual = dict[str, dict[str, Tensor]]
SECONDS = 60
ALLOWED = "ignore:.*multi-threaded, use of fork:DeprecationWarning"  # Python's word on what is tested here


def in_a_fork(check: Callable[[], None]) -> int:
    """The exit code of a forked child that runs this check: 0 where it holds, 1 where not, -1 where it hung."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            check()
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -1


@pytest.mark.filterwarnings(ALLOWED)
@pytest.mark.parametrize("way", ["int8", "saved in int8"])
def test_a_child_forked_after_the_model_ran_on_several_threads_gives_the_same_bits(way: str, model: Path, usual: Usual):
    with threads(2):
        lm = opened(model, way)
        assert_same(lm, usual[way])
        assert in_a_fork(lambda: assert_same(lm, usual[way])) == 0
        assert in_a_fork(lambda: assert_same(opened(model, way), usual[way])) == 0
        assert torch.get_num_threads() == 2, "the parent keeps its threads"


@pytest.mark.filterwarnings(ALLOWED)
def test_a_forked_child_computes_in_full_precision_too(model: Path):
    def check() -> None:
        assert torch.get_num_threads() == 1
        torch.testing.assert_close(lm.logits(TEXTS), expected, atol=1e-5, rtol=0)
        assert torch.equal(big @ big, big.T)

    big = torch.eye(600)
    with threads(2):
        lm = opened(model, "full precision")
        expected = lm.logits(TEXTS)
        assert torch.equal(big @ big, big)  # torch's threads are at work in the parent
        assert in_a_fork(check) == 0


@pytest.mark.filterwarnings(ALLOWED)
@pytest.mark.skipif(not native.available, reason=f"no native library: {native.MISSING}")
def test_a_child_forked_while_another_thread_generates_lets_its_layers_go(model: Path):
    """Its parent's threads may hold a lock at that moment, which nobody in the child would give back."""
    lm, over = opened(model, "int8"), threading.Event()

    def generate() -> None:
        while not over.is_set():
            lm.generate(TEXTS, max_new_tokens=4)

    def check() -> None:
        lm.decoder = torch.nn.Identity()  # type: ignore[assignment]  every native layer is forgotten

    with threads(2):
        worker = threading.Thread(target=generate)
        worker.start()
        try:
            assert [in_a_fork(check) for _ in range(20)] == [0] * 20
        finally:
            over.set()
            worker.join()


@pytest.mark.filterwarnings(ALLOWED)
@pytest.mark.skipif(not native.available, reason=f"no native library: {native.MISSING}")
def test_a_child_forked_from_inside_a_pass_computes(model: Path, usual: Usual):
    """As a tap that starts a process does."""
    lm, codes = opened(model, "int8"), []

    class Forks(Untapped):
        def __call__(self, name: str, value: Tensor) -> Tensor:
            if name == "blocks.0.attn.z":
                codes.append(in_a_fork(lambda: assert_same(lm, usual["int8"])))
            return value

        def wants(self, *names: str) -> bool:
            return "blocks.0.attn.z" in names

    with threads(2):
        list(lm.stream(TEXTS, tap=Forks(), max_new_tokens=2))
    assert codes == [0, 0]


def _child(lm: LM, expected: dict[str, Tensor]) -> None:
    assert_same(lm, expected)


@pytest.mark.parametrize("way", ["int8", "saved in int8"])
def test_a_spawned_child_that_is_given_the_model_has_the_same_bits(way: str, model: Path, usual: Usual):
    lm = opened(model, way)
    assert_same(lm, usual[way])
    expected = {name: value.clone() for name, value in usual[way].items()}  # torch shares no mapped tensor
    child = multiprocessing.get_context("spawn").Process(target=_child, args=(lm, expected))
    child.start()
    child.join(SECONDS)
    assert child.exitcode == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_and_a_pickle_of_a_used_model_are_the_same_model(way: str, model: Path, usual: Usual):
    lm = opened(model, way)
    assert_same(lm, usual[way])  # its native plans and its tokenizer are made
    for again in (copy.deepcopy(lm), pickle.loads(pickle.dumps(lm))):
        assert_same(again, usual[way])
        assert again.checkpoint.path == lm.checkpoint.path and again.checkpoint.notes == lm.checkpoint.notes


def test_a_pickle_of_a_new_model_knows_its_files(model: Path):
    again = pickle.loads(pickle.dumps(opened(model, "int8")))
    assert again.checkpoint.tensors.keys() == opened(model, "int8").checkpoint.tensors.keys()
    assert again.tokenizer.tokenize("the cat").ids.tolist() == again.tokenize("the cat").ids.tolist()
    assert all(line.passed for line in again.check().lines)


@pytest.mark.parametrize("way", WAYS)
def test_a_pickle_holds_each_weight_once(way: str, model: Path):
    """Layers share one storage, or one mapped file: a pickle of one view would hold all of it."""
    decoder = opened(model, way).decoder
    memory = {value.data_ptr(): value.nbytes for value in decoder.state_dict().values()}
    assert len(pickle.dumps(decoder)) < 1.1 * sum(memory.values()) + 50_000


def test_a_copy_does_not_share_its_weights(model: Path):
    lm = opened(model, "int8")
    copied, before = copy.deepcopy(lm), lm.logits(TEXTS)
    copied.decoder.blocks[0].mlp.down.codes.zero_()
    assert torch.equal(lm.logits(TEXTS), before)


def test_a_pickle_whose_files_are_gone_says_so(model: Path, tmp_path: Path):
    files = tmp_path / "model"
    files.mkdir()
    for file in model.iterdir():
        if file.is_file():
            (files / file.name).write_bytes(file.read_bytes())
    written = pickle.dumps(opened(files, "int8"))
    for file in files.iterdir():
        file.unlink()
    with pytest.raises(ModelNotFound, match="an empty folder"):
        pickle.loads(written)


def test_a_model_loaded_in_a_thread_of_a_new_process_is_the_same(model: Path, usual: Usual, tmp_path: Path):
    script = f"""
import threading
def work():
    import cutaway, torch
    torch.save(cutaway.load({str(model)!r}, device="cpu").logits({TEXTS!r}), {str(tmp_path / "logits.pt")!r})
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=SECONDS)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), usual["int8"]["logits of the pass"])


@pytest.mark.parametrize("way", ["int8", "saved in int8"])
@pytest.mark.parametrize("count", [1, 2])
def test_threads_that_generate_with_one_model_at_once_get_what_each_alone_gets(
    way: str, count: int, model: Path, usual: Usual
):
    errors: list[BaseException] = []

    def run() -> None:
        try:
            assert_same(lm, usual[way])
        except BaseException as error:
            errors.append(error)

    with threads(count):
        lm = opened(model, way)
        workers = [threading.Thread(target=run) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(SECONDS)
    assert not errors and not any(worker.is_alive() for worker in workers)


@pytest.mark.parametrize("way", WAYS)
def test_a_model_whose_memory_torch_moves_to_share_it_is_the_same(way: str, model: Path, usual: Usual):
    """As torch.multiprocessing does: what the library was told lies elsewhere then."""
    lm = copy.deepcopy(opened(model, way))  # in memory of its own: torch shares no mapped tensor
    assert_same(lm, usual[way])
    lm.decoder.share_memory()
    assert_same(lm, usual[way])
