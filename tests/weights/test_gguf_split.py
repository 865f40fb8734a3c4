"""Split GGUF files: parts as the gguf package writes them, opened as one model or refused; what a merge leaves."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter

import cutaway
from cutaway.ground.errors import BadCheckpoint
from cutaway.weights.files.gguf import open_gguf
from cutaway.weights.opening import quantize
from cutaway.weights.save import MANIFEST, sha256
from tests.weights.gguf_files import LLAMA, add_values, finished, llama_file, llama_tensors, tiny_llama

VOCABULARY = {
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.tokens": [*"abcdefghij", "ab"],
    "tokenizer.ggml.token_type": [1] * 11, "tokenizer.ggml.merges": ["a b"],
}  # fmt: skip
IDS = torch.tensor([[3, 7, 9]])


def parts(folder: Path, name: str = "m.gguf", **changes: Any) -> list[Path]:
    """The tiny llama in several parts of five tensors."""
    writer = GGUFWriter(folder / name, "llama", split_max_tensors=5, **changes)
    add_values(writer, {f"llama.{key}": value for key, value in LLAMA.items()} | VOCABULARY)
    for tensor, values in llama_tensors(tiny_llama()).items():
        writer.add_tensor(tensor, values)
    finished(writer)
    return sorted(folder.glob(f"{Path(name).stem}-*.gguf"))


def rewritten(path: Path, key: bytes, value: int, size: int) -> None:
    """Another number for one key of a file."""
    data = path.read_bytes()
    at = data.index(key) + len(key) + 4
    path.write_bytes(data[:at] + value.to_bytes(size, "little") + data[at + size :])


@pytest.mark.parametrize("count", [0, 1])
def test_f7_a_merged_file_that_still_says_split_count_runs(tmp_path: Path, count: int) -> None:
    plain = cutaway.load(llama_file(tmp_path / "m.gguf"), quantize=None).logits(IDS)
    split = {"split__no": 0, "split__count": count, "split__tensors__count": 21}
    merged = cutaway.load(llama_file(tmp_path / "m.gguf", **split), quantize=None).logits(IDS)
    assert torch.equal(merged, plain)


@pytest.mark.parametrize("named", [0, 2, -1])
def test_any_part_of_a_split_file_opens_the_whole(tmp_path: Path, named: int) -> None:
    files = parts(tmp_path)
    assert len(files) > 3 and files[0].name == f"m-00001-of-{len(files):05}.gguf"
    plain = open_gguf(llama_file(tmp_path / "plain.gguf"))
    whole = open_gguf(files[named])
    assert set(whole.tensors) == set(plain.tensors)
    assert all(torch.equal(whole.tensors[name].read(), plain.tensors[name].read()) for name in plain.tensors)
    assert whole.metadata["llama.block_count"] == 2
    expected = cutaway.load(tmp_path / "plain.gguf", quantize=None).logits(IDS)
    assert torch.equal(cutaway.load(files[named], quantize=None).logits(IDS), expected)


def test_a_first_part_without_tensors_opens(tmp_path: Path) -> None:
    files = parts(tmp_path, small_first_shard=True)
    assert set(open_gguf(files[0]).tensors) == set(llama_tensors(tiny_llama()))


def test_missing_parts_are_named(tmp_path: Path) -> None:
    files = parts(tmp_path)
    count = len(files)
    files[1].unlink()
    files[3].unlink()
    missing = f"also m-00002-of-{count:05}.gguf, m-00004-of-{count:05}.gguf; fetch the missing parts"
    with pytest.raises(BadCheckpoint, match=rf"found {count - 2} of the {count} parts of a split GGUF file.*{missing}"):
        open_gguf(files[0])


@pytest.mark.parametrize("there", [0, 1, 2])
def test_a_folder_with_some_parts_names_those_that_are_missing(tmp_path: Path, there: int) -> None:
    files = parts(tmp_path)
    present = [file for number, file in enumerate(files) if number % 3 == there]
    for file in set(files) - set(present):
        file.unlink()
    with pytest.raises(BadCheckpoint, match=rf"found {len(present)} of the {len(files)} parts of a split GGUF file"):
        cutaway.load(tmp_path, quantize=None)


def test_a_saved_model_has_the_hash_of_every_part(tmp_path: Path) -> None:
    files = parts(tmp_path)
    for number, named in enumerate((files[0], files[2], tmp_path)):
        out = quantize(named, tmp_path / f"out-{number}")
        source = json.loads((out / MANIFEST).read_text())["source"]
        assert source["files"] == {file.name: sha256(file) for file in files}


def test_a_part_under_another_name_is_refused(tmp_path: Path) -> None:
    files = parts(tmp_path)
    files[1].rename(tmp_path / "model.gguf")
    with pytest.raises(BadCheckpoint, match=r"found model.gguf, part 2 of a GGUF file split in \d; .*the names that"):
        open_gguf(tmp_path / "model.gguf")


def test_a_part_that_does_not_belong_is_refused(tmp_path: Path) -> None:
    files = parts(tmp_path)
    shutil.copy(files[1], files[2])
    with pytest.raises(BadCheckpoint, match=r"found split.no=1 and split.count=\d in m-00003-.*expected split.no=2"):
        open_gguf(files[0])
    rewritten(files[2], b"split.no", 2, 2)
    with pytest.raises(BadCheckpoint, match=r"in m-00003-of-\d+.gguf and in an earlier part"):
        open_gguf(files[0])
    llama_file(files[2])  # a whole model under the part's name
    with pytest.raises(BadCheckpoint, match=r"found split.no=None and split.count=None in m-00003"):
        open_gguf(files[0])


def test_a_count_of_parts_that_is_no_number_is_refused(tmp_path: Path) -> None:
    path = llama_file(tmp_path / "m.gguf", split__count="3")
    with pytest.raises(BadCheckpoint, match=r"found split.count='3' in m.gguf; expected a sound GGUF file;"):
        open_gguf(path)


def test_parts_that_lack_a_tensor_are_refused(tmp_path: Path) -> None:
    files = parts(tmp_path)
    rewritten(files[0], b"split.tensors.count", 30, 4)
    with pytest.raises(BadCheckpoint, match=r"found 21 tensors in the \d parts of m-00001.*expected 30"):
        open_gguf(files[3])
