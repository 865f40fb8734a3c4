"""`cutaway quantize` and `cutaway check-files`: what is written and printed, and every bad input in one sentence."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cutaway as package
from cutaway.apps.cli.common import MODES
from cutaway.model.architecture import nbytes
from cutaway.quant.formats import Mode
from cutaway.quant.linear import Int8Linear
from cutaway.weights import save
from cutaway.weights.files import files_of

from .conftest import Run
from .test_bad_input import refused


@pytest.fixture
def written(cutaway: Run, tiny_folder: Path, tmp_path: Path) -> Path:
    assert cutaway("quantize", tiny_folder, tmp_path / "out").code == 0
    return tmp_path / "out"


def test_the_modes_are_those_of_the_arithmetic():
    assert Mode.__args__ == MODES  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("keep", [[], ["lm_head", "blocks.1.mlp.up"]])
def test_what_is_written_is_said(cutaway: Run, tiny_folder: Path, tmp_path: Path, mode: str, keep: list[str]):
    out = tmp_path / "some" / "out"
    options = [word for name in keep for word in ("--keep", name)]
    done = cutaway("quantize", tiny_folder, out, "--mode", mode, *options, "--json")
    data = json.loads(done.out)
    assert (data["folder"], data["mode"]) == (str(out), mode)
    assert data["bytes"] == sum(file.stat().st_size for file in out.iterdir())
    lm = package.load(out, quantize=mode)
    layers = {name: m for name, m in lm.decoder.named_modules() if isinstance(m, Int8Linear)}
    int8 = data["int8"]
    assert int8["layers"] == list(layers) and len(layers) == (7 if keep else 9)
    held = [part for m in layers.values() for name, part in m.state_dict().items() if name in m.STORED]
    assert int8["bytes"] == sum(part.nbytes for part in held)
    source = sum(file.stat().st_size for file in files_of(tiny_folder))
    assert (int8["bytes_model"], int8["bytes_checkpoint"]) == (nbytes(lm.decoder), source)
    assert int8["bytes_saved"] == source - nbytes(lm.decoder)
    plain = package.load(tiny_folder, quantize=mode, keep=keep)
    assert plain.generate("the cat", max_new_tokens=4).text == lm.generate("the cat", max_new_tokens=4).text


def test_the_page_says_how_to_open_it(cutaway: Run, tiny_folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    done = cutaway("quantize", tiny_folder, out, "--mode", "llm-int8")
    assert (done.code, done.err) == (0, "")
    assert "9 layers in 8 bits: " in done.out and " less (" in done.out
    assert done.out.endswith(f"open it with --model {out}\n")
    assert cutaway("generate", "the cat", "--model", out, "--max-new-tokens", 2).code == 0
    assert cutaway("generate", "the cat", "--model", out, "--quantize", "llm-int8", "--max-new-tokens", 2).code == 0
    refused(cutaway("generate", "the cat", "--model", out, "--quantize", "int8"), "saved as 'llm-int8'")
    refused(cutaway("generate", "the cat", "--model", out, "--quantize", "none"), "--quantize none")


def test_the_model_can_be_named_as_an_option(cutaway: Run, tiny_folder: Path, tmp_path: Path):
    assert cutaway("quantize", tmp_path / "out", "--model", tiny_folder).code == 0
    assert cutaway("check-files", "--model", tmp_path / "out").code == 0
    again = tmp_path / "again"
    refused(cutaway("quantize", tiny_folder, again, "--model", tiny_folder), "2 names and --model")
    refused(cutaway("quantize", tiny_folder, again, "more"), "3 names", "MODEL and OUT")
    assert not again.exists()


def test_sound_files_are_said_to_be(cutaway: Run, written: Path):
    done = cutaway("check-files", written)
    assert done.code == 0 and "files are what was written (int8)" in done.out and save.WEIGHTS in done.out
    data = json.loads(cutaway("check-files", written, "--json").out)
    assert data["sound"] is True and data["mode"] == "int8" and {save.WEIGHTS, "config.json"} <= set(data["files"])


def _change_manifest(**over: Any) -> Callable[[Path], None]:
    def spoil(out: Path) -> None:
        manifest = json.loads((out / save.MANIFEST).read_text())
        (out / save.MANIFEST).write_text(json.dumps(manifest | over))

    return spoil


def _truncate(out: Path) -> None:
    (out / save.WEIGHTS).write_bytes((out / save.WEIGHTS).read_bytes()[:-100])


def _flip(out: Path) -> None:
    data = bytearray((out / save.WEIGHTS).read_bytes())
    data[-70] ^= 4
    (out / save.WEIGHTS).write_bytes(data)


def _flip_config(out: Path) -> None:
    text = (out / "config.json").read_text()
    (out / "config.json").write_text(text.replace("4096", "4097"))


def _lose(out: Path) -> None:
    (out / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "verb", "parts"),
    [
        (_change_manifest(layout=99), "generate", ["layout 99", f"layout {save.LAYOUT}", "quantize the model again"]),
        (_change_manifest(layout=99), "check-files", ["layout 99"]),
        (_change_manifest(layout=1, mode="int8-weight"), "generate", ["layout 1 ", "quantize the model again"]),
        (_change_manifest(layout=1, mode="int8-weight"), "check-files", ["layout 1 ", "quantize the model again"]),
        (
            _change_manifest(mode="int8-pooled"),
            "generate",
            ["mode 'int8-pooled'", "one of int8, llm-int8, llm-int8-pooled"],
        ),
        (_truncate, "generate", [save.WEIGHTS, "as its header announces"]),
        (_truncate, "check-files", ["sha256", save.WEIGHTS]),
        (_flip, "check-files", ["sha256", save.WEIGHTS, "as the manifest says"]),
        (_flip_config, "check-files", ["sha256", "config.json"]),
        (_lose, "generate", ["no tokenizer.json", "the files that its manifest names"]),
        (_lose, "check-files", ["no tokenizer.json"]),
    ],
)
def test_a_damaged_folder(cutaway: Run, written: Path, spoil: Callable[[Path], None], verb: str, parts: list[str]):
    spoil(written)
    done = cutaway(verb, written) if verb == "check-files" else cutaway(verb, "the cat", "--model", written)
    refused(done, *parts)


def test_what_cannot_be_quantized_leaves_everything_as_it_was(cutaway: Run, tiny_folder: Path, written: Path):
    new = written.parent / "new"
    before = {file: file.stat().st_mtime_ns for file in written.parent.rglob("*")}
    refused(cutaway("quantize", tiny_folder, written), f"{written}, which is there already", "choose another name")
    refused(cutaway("quantize", written, new), "which is in 8 bits already", "use it as it is")
    refused(cutaway("quantize", tiny_folder, new, "--mode", "int4"), "--quantize int4", "llm-int8 or llm-int8-pooled")
    refused(cutaway("quantize", tiny_folder, new, "--mode", "int8-weight"), "an earlier version", "--quantize int8")
    refused(cutaway("quantize", tiny_folder, new, "--mode", "none"), "--quantize none", "llm-int8 or llm-int8-pooled")
    refused(cutaway("quantize", tiny_folder, new, "--keep", "lm_tail"), "--keep lm_tail", "lm_head")
    refused(cutaway("quantize", "no/such/model", new), "the model name 'no/such/model'")
    refused(cutaway("quantize"), "missing argument", "see cutaway quantize --help")
    assert {file: file.stat().st_mtime_ns for file in written.parent.rglob("*")} == before


def test_a_destination_that_cannot_be_written(cutaway: Run, tiny_folder: Path, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    refused(cutaway("quantize", tiny_folder, tmp_path / "file" / "out"), "file", "to be allowed to read or write there")


@pytest.mark.parametrize("stage", ["write_safetensors", "_write_small_files", "sha256"])
def test_a_full_disk_leaves_nothing_behind(
    cutaway: Run, tiny_folder: Path, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
):
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "out"))

    monkeypatch.setattr(save, stage, full)
    refused(cutaway("quantize", tiny_folder, tmp_path / "out"), "a full disk", "space to write", "free some space")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_quantized_folder(cutaway: Run, tiny_folder: Path, tmp_path: Path):
    for folder in (tiny_folder, tmp_path / "nothing"):
        refused(cutaway("check-files", folder), f"no quantized.json in {folder}", "`cutaway quantize` wrote")
    refused(cutaway("check-files"), "no FOLDER")
    refused(cutaway("check-files", tiny_folder, "--model", tiny_folder), "a FOLDER and --model")
