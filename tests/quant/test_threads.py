"""The number of threads: what the machine gives, what is given, and what was chosen before."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import cutaway
from cutaway.ground.errors import BadArgument
from cutaway.quant import native
from cutaway.quant import threads as machine
from tests.quant.helpers import threads


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No number was given yet; torch's is put back."""
    monkeypatch.setattr(machine, "given", [])
    with threads(torch.get_num_threads()):
        yield


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


def test_hyperthreads_of_one_core_count_once(tmp_path: Path) -> None:
    for number, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        write(tmp_path / f"cpu{number}/topology/thread_siblings_list", siblings)
    assert machine.physical_cores({0, 1, 2, 3}, tmp_path) == 2
    assert machine.physical_cores({0, 2}, tmp_path) == 1, "an affinity mask on one core"
    assert machine.physical_cores({0, 3}, tmp_path) == 2
    assert machine.physical_cores({0, 1, 7}, tmp_path / "nothing") == 3, "each its own, where nothing is said"


def test_the_quota_of_version_2(tmp_path: Path) -> None:
    write(tmp_path / "a/b/cpu.max", "max 100000")
    assert machine.cpu_quota("0::/a/b", tmp_path) is None
    write(tmp_path / "a/cpu.max", "150000 100000")
    assert machine.cpu_quota("0::/a/b", tmp_path) == 1.5, "a group above limits it"
    write(tmp_path / "a/b/cpu.max", "100000 200000")
    assert machine.cpu_quota("0::/a/b", tmp_path) == 0.5
    write(tmp_path / "unified/cpu.max", "30000 100000")
    assert machine.cpu_quota("1:cpuset:/\n0::/", tmp_path) == 0.3, "beside version 1"


def test_the_quota_of_version_1(tmp_path: Path) -> None:
    groups = "9:name=systemd:/x\n4:cpu,cpuacct:/docker/7f\n3:cpuset:/x\n0::/"
    write(tmp_path / "cpu,cpuacct/cpu.cfs_quota_us", "-1")
    write(tmp_path / "cpu,cpuacct/cpu.cfs_period_us", "100000")
    assert machine.cpu_quota(groups, tmp_path) is None
    write(tmp_path / "cpu,cpuacct/cpu.cfs_quota_us", "400000")
    assert machine.cpu_quota(groups, tmp_path) == 4, "a container sees its own group as the root"
    assert machine.cpu_quota("", tmp_path) is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 4), (8.0, 4), (2.5, 2), (0.3, 1)])
def test_the_default(monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int) -> None:
    monkeypatch.setattr(machine, "physical_cores", lambda processors: 4)
    monkeypatch.setattr(machine, "cpu_quota", lambda groups: quota)
    assert machine.default_threads() == expected


def test_the_default_lowers_only_what_nobody_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "allowed_processors", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(machine, "physical_cores", lambda processors: 4)
    monkeypatch.setattr(machine, "cpu_quota", lambda groups: 2.0)
    said = "OMP_NUM_THREADS : [not set]\nMKL_NUM_THREADS : [not set]"
    monkeypatch.setattr(torch.__config__, "parallel_info", lambda: said)
    for before, after in ((4, 2), (3, 3), (1, 1)):  # 3 and 1: by torch.set_num_threads
        torch.set_num_threads(before)
        machine.use_threads(None)
        assert torch.get_num_threads() == after
    said = said.replace("[not set]", "4", 1)
    torch.set_num_threads(4)
    machine.use_threads(None)
    assert torch.get_num_threads() == 4, "the environment's"
    said = said.replace(": 4", ": [not set]")
    machine.use_threads(4)
    machine.use_threads(None)
    assert torch.get_num_threads() == 4, "a number that was given stays"


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2", 2000])
def test_a_number_that_no_run_could_use(count: object) -> None:
    before = torch.get_num_threads()
    with pytest.raises(
        BadArgument, match=r"^found threads=.*; expected (a whole number, 1 or above|at most 1024); leave"
    ):
        cutaway.load("no/such/model", threads=count)  # type: ignore[arg-type]
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not native.available, reason=f"no native library: {native.MISSING}")
def test_small_ops_on_one_thread_give_the_number_back() -> None:
    with threads(3):
        with pytest.raises(ZeroDivisionError), machine.one_thread(9):
            assert torch.get_num_threads() == 1
            1 / 0
        assert torch.get_num_threads() == 3
        with machine.one_thread(machine.SMALL + 1):
            assert torch.get_num_threads() == 3


@pytest.mark.parametrize(
    ("chosen", "spins"), [({}, "8000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "0")]
)
def test_torchs_threads_sleep_soon_unless_the_environment_says_otherwise(chosen: dict[str, str], spins: str) -> None:
    code = [sys.executable, "-c", "import cutaway, torch"]
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(code, capture_output=True, text=True, env=kept | {"OMP_DISPLAY_ENV": "VERBOSE"} | chosen)
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch's OpenMP here is not libgomp")
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr
