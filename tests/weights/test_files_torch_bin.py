"""pytorch_model.bin: tensors come back as they were saved; a pickle with code is never run."""

import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
import torch

from cutaway.ground.errors import BadCheckpoint, UnsupportedModel
from cutaway.weights.files.torch_bin import open_torch_bin

W = torch.arange(35, dtype=torch.float32).reshape(5, 7)
STATE = {
    "w": W,
    "tied": W,
    "part": W[2:4],
    "transposed": W.T,
    "strided": W[:, ::2],
    "half": W.half(),
    "bf16": W.bfloat16(),
    "scalar": torch.tensor(3),
    "empty": torch.zeros(0, 4),
    "parameter": torch.nn.Parameter(W + 1),
}


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("this-code-ran",)


class Unknown:
    pass


def saved(path: Path, state: object, legacy: bool = False) -> Path:
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return path


def compressed(path: Path) -> Path:
    """The same checkpoint packed again by some zip tool, so that its bytes are no longer where torch put them."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("form", ["zip", "legacy", "compressed"])
def test_tensors_come_back(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path / "m.bin", STATE, legacy=form == "legacy")
    tensors = open_torch_bin(compressed(path) if form == "compressed" else path)
    assert list(tensors) == list(STATE)
    for name, expected in STATE.items():
        lazy = tensors[name]
        assert (lazy.shape, lazy.dtype) == (tuple(expected.shape), expected.dtype)
        got = lazy.read()
        assert torch.equal(got, expected.detach())
        assert got.is_contiguous()
        assert not got.requires_grad
        if lazy.shape:
            assert torch.equal(lazy.read(slice(1, 3)), expected.detach()[1:3])


def test_each_read_is_a_copy_of_its_own(tmp_path: Path) -> None:
    tensors = open_torch_bin(saved(tmp_path / "m.bin", STATE))
    tensors["w"].read().zero_()
    assert torch.equal(tensors["tied"].read(), W)
    assert tensors["part"].read().untyped_storage().nbytes() == 2 * 7 * 4


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    message = r"found m.bin, which asks to run code: posix.mkdir; expected tensors only"
    with pytest.raises(BadCheckpoint, match=message):
        open_torch_bin(saved(tmp_path / "m.bin", {"w": RunsCode()}, legacy))
    assert [f.name for f in tmp_path.iterdir()] == ["m.bin"]


def test_an_unknown_class_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"asks to run code: .*Unknown; expected tensors only"):
        open_torch_bin(saved(tmp_path / "m.bin", {"w": Unknown()}))


@pytest.mark.parametrize("keep", [0, 1, 10, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = saved(tmp_path / "m.bin", STATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(BadCheckpoint, match=r"m.bin.*expected a whole PyTorch checkpoint; fetch the file again"):
        open_torch_bin(path)


def test_another_zip_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.bin", "w") as archive:
        archive.writestr("notes.txt", "no checkpoint")
    with pytest.raises(
        BadCheckpoint, match=r"found a file that torch cannot read, m.bin \(\d+ bytes\); expected a whole"
    ):
        open_torch_bin(tmp_path / "m.bin")


@pytest.mark.parametrize("change", [-4, 4])
def test_a_tensor_whose_bytes_are_not_as_many_as_it_says_is_refused(tmp_path: Path, change: int) -> None:
    """Else the bytes of the tensor behind it would be read as its own."""
    path = saved(tmp_path / "m.bin", {"w": W, "v": W + 1})
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, (data + bytes(4))[: len(data) + change] if name.endswith("data/0") else data)
    with pytest.raises(BadCheckpoint, match=r"found a file that torch cannot read, m.bin.*expected a whole PyTorch"):
        open_torch_bin(path)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([W], "found a list in m.bin; expected a dict of tensors"),
        ({"state_dict": {"w": W}}, "found dict under 'state_dict' in m.bin; expected tensors by name only"),
        ({3: W}, "found Tensor under 3"),
    ],
)
def test_anything_but_tensors_by_name_is_refused(tmp_path: Path, state: object, message: str) -> None:
    with pytest.raises(BadCheckpoint, match=message):
        open_torch_bin(saved(tmp_path / "m.bin", state))


@pytest.mark.filterwarnings("ignore:.*[Ss]parse .*invariant:UserWarning")  # torch warns before we refuse
def test_a_sparse_tensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"found a sparse or quantized tensor under 'w'"):
        open_torch_bin(saved(tmp_path / "m.bin", {"w": W.to_sparse()}, legacy=True))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_streaming_a_file_costs_the_memory_of_its_largest_tensor(tmp_path: Path, kind: str) -> None:
    """40 tensors of 4 MB: 160 MB in the file, of which at most a few may be in memory at a time."""
    script = """
        import sys, torch
        from pathlib import Path
        from safetensors.torch import save_file
        from cutaway.weights.files import open_folder
        folder = Path(sys.argv[1])
        def peak():
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
        def reset():  # the peak forgets what it took to write the file
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        state = {f"t{i}": torch.full((1024, 1024), float(i)) for i in range(40)}
        if sys.argv[2] == "bin":
            torch.save(state, folder / "pytorch_model.bin")
        else:
            save_file(state, folder / "model.safetensors")
        del state
        tensors = open_folder(folder)
        reset()
        before = peak()
        total = sum(t.read().sum().item() for t in tensors.values())
        assert total == 1024 * 1024 * sum(range(40)), total
        print(peak() - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 40
