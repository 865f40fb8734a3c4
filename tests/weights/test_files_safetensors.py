"""safetensors: what is written comes back, also through the safetensors package; what is damaged is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cutaway.ground.errors import BadArgument, BadCheckpoint, UnsupportedModel
from cutaway.weights.files.safetensors import ALIGNMENT, DTYPES, open_safetensors, write_safetensors

TENSORS = {
    "matrix": torch.arange(12, dtype=torch.float32).reshape(4, 3),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.zeros(0, 3, dtype=torch.bfloat16),
    "halves": torch.randn(5, 2, 3, dtype=torch.float16),
    "flags": torch.tensor([True, False, True]),
    "codes": torch.tensor([[1, -2], [3, -4]], dtype=torch.int8),
}


def written(path: Path, header: object, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def one(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def test_reads_what_the_package_writes(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "m.safetensors", {"format": "pt"})
    tensors = open_safetensors(tmp_path / "m.safetensors")
    assert set(tensors) == set(TENSORS)
    for name, expected in TENSORS.items():
        lazy = tensors[name]
        assert (lazy.shape, lazy.dtype, lazy.nbytes) == (tuple(expected.shape), expected.dtype, expected.nbytes)
        assert torch.equal(lazy.read(), expected)


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_every_dtype_goes_and_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    expected, path = torch.tensor([[0, 1], [1, 0]]).to(dtype), tmp_path / "m.safetensors"
    write_safetensors(path, {"w": (dtype, (2, 2))}, lambda _: expected, {"made": "by a test"})
    assert torch.equal(open_safetensors(path)["w"].read(), expected)
    assert torch.equal(load_file(path)["w"], expected)


def test_the_package_reads_what_is_written_and_starts_are_aligned(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {n: (t.dtype, tuple(t.shape)) for n, t in TENSORS.items()}, TENSORS.__getitem__)
    theirs = load_file(path)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in TENSORS.items())
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert (8 + length) % ALIGNMENT == 0
    for entry in json.loads(raw[8 : 8 + length]).values():
        assert entry["data_offsets"][0] % DTYPES[entry["dtype"]].itemsize == 0


def test_rows_are_a_copy_of_some_leading_rows(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "m.safetensors")
    lazy = open_safetensors(tmp_path / "m.safetensors")["matrix"]
    for rows in (slice(1, 3), slice(None, 2), slice(2, None), slice(3, 99), slice(2, 1), slice(-1, None)):
        part = lazy.read(rows)
        assert torch.equal(part, TENSORS["matrix"][rows])
    assert lazy.read(slice(0, 1)).untyped_storage().nbytes() == 12
    lazy.read().zero_()
    assert torch.equal(lazy.read(), TENSORS["matrix"])
    with pytest.raises(BadArgument, match=r"found rows=slice.*expected a slice of leading rows, without a step"):
        lazy.read(slice(0, 4, 2))
    with pytest.raises(BadArgument, match=r"leading rows"):
        open_safetensors(tmp_path / "m.safetensors")["scalar"].read(slice(0, 1))


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"{not json", b"", "found a header that is no JSON object in m.safetensors"),
        ([1, 2], b"", "no JSON object"),
        (b"[" * 100_000, b"", "no JSON object"),
        (one(offsets=(0, 9)), b"x" * 9, "found 9 bytes for 'w'.*expected 8 for F32 of shape .2."),
        (one(shape=(3,)), b"x" * 8, "found 8 bytes for 'w'.*expected 12"),
        (one(), b"x" * 7, r"ends too early \(7 bytes of data\); expected 8"),
        (one(), b"x" * 9, "found 9 bytes of data.*expected 8"),
        (one(offsets=(4, 12)), b"x" * 12, "found 'w' at byte 4.*expected byte 0"),
        (one(offsets=(0,)), b"", "header entry.*expected dtype, shape and data_offsets"),
        (one(shape=(-1,)), b"", "header entry"),
        (one(shape=2), b"", "header entry"),
        ({"w": 3}, b"", "found the header entry 3 for 'w'"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, header: object, data: bytes, message: str) -> None:
    with pytest.raises(BadCheckpoint, match=message):
        open_safetensors(written(tmp_path / "m.safetensors", header, data))


@pytest.mark.parametrize("keep", [1, 4, 8, 30])
def test_a_file_cut_in_its_header_is_refused(tmp_path: Path, keep: int) -> None:
    whole = written(tmp_path / "m.safetensors", one(), b"x" * 8).read_bytes()
    (tmp_path / "m.safetensors").write_bytes(whole[:keep])
    with pytest.raises(BadCheckpoint, match=rf"m.safetensors ends too early \({keep} bytes\).*fetch the file again"):
        open_safetensors(tmp_path / "m.safetensors")


def test_a_file_that_shrinks_after_it_was_opened_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "m.safetensors", one(), b"x" * 8)
    lazy = open_safetensors(path)["w"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadCheckpoint, match=r"ends too early"):
        lazy.read()


def test_an_unknown_dtype_is_refused_by_name(tmp_path: Path) -> None:
    path = written(tmp_path / "m.safetensors", one("C64"), b"x" * 8)
    with pytest.raises(UnsupportedModel, match=r"found the dtype C64 of 'w' in m.safetensors; expected one of F64"):
        open_safetensors(path)


@pytest.mark.parametrize(("dtype", "bits"), [("F8_E8M0", 8), ("F4", 4), ("F6_E2M3", 6)])
def test_small_floats_are_known_as_a_quantized_checkpoint(tmp_path: Path, dtype: str, bits: int) -> None:
    path = written(tmp_path / "m.safetensors", one(dtype), b"x" * 8)
    message = rf"found the dtype {dtype} of 'w' in m.safetensors, an fp{bits} checkpoint; expected weights in full prec"
    with pytest.raises(UnsupportedModel, match=message):
        open_safetensors(path)


def test_the_names_beside_an_unknown_dtype_say_which_tool_packed_it(tmp_path: Path) -> None:
    header = {"h.0.weight": {"dtype": "U32", "shape": [1], "data_offsets": [0, 4]},
              "h.0.scales": {"dtype": "F16", "shape": [2], "data_offsets": [4, 8]}}  # fmt: skip
    path = written(tmp_path / "m.safetensors", header, b"x" * 8)
    with pytest.raises(
        UnsupportedModel, match=r"found an MLX checkpoint in few bits \(as 'h.0.scales'\) in m.safetens"
    ):
        open_safetensors(path)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(_: str) -> torch.Tensor:
        raise KeyboardInterrupt

    (tmp_path / "m.safetensors").write_bytes(b"what was there")
    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "m.safetensors", {"w": (torch.float32, (2,))}, interrupted)
    assert [f.name for f in tmp_path.iterdir()] == ["m.safetensors"]
    assert (tmp_path / "m.safetensors").read_bytes() == b"what was there"


def test_a_tensor_that_is_not_as_announced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match=r"found 'w' as torch.float32 of shape .3.; expected torch.float16"):
        write_safetensors(tmp_path / "m.safetensors", {"w": (torch.float16, (3,))}, lambda _: torch.zeros(3))
    assert not list(tmp_path.iterdir())


def test_the_tensors_of_a_file_share_one_mapping_which_is_written_without_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({name: torch.arange(9, dtype=torch.int32) for name in "abc"}, path)
    one, other = open_safetensors(path), open_safetensors(path)
    mapped = {name: tensor.mapped() for name, tensor in one.items()}
    assert all(value is not None and torch.equal(value, one[name].read()) for name, value in mapped.items())
    assert len({id(tensor.location[0].memory) for tensor in one.values() if tensor.location}) == 1
    mapped["a"].zero_()  # type: ignore[union-attr]
    assert one["a"].read().any() and other["a"].mapped().any()  # type: ignore[union-attr]
