"""`cutaway perplexity`: the number of a plain computation, the protocol in words, and what is refused."""

import json
import math
from pathlib import Path

import pytest

import cutaway as package

from .conftest import CONTEXT, Run
from .test_bad_input import refused

TEXT = "the cat sat on the mat and the dog ran to the cat " * 8


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.mark.parametrize("mode", ["none", "int8"])
def test_the_number_is_that_of_a_plain_computation(cutaway: Run, tiny_folder: Path, file: Path, mode: str):
    asked = ["--model", tiny_folder, "--quantize", mode, "--window", 32, "--limit", 70, "--json"]
    done = cutaway("perplexity", file, *asked)
    data = json.loads(done.out)
    lm = package.load(tiny_folder, quantize=mode)
    losses = []
    for segment in lm.tokenize(TEXT).ids[0][:70].split(32):
        log_probs = lm.logits(segment)[0].double().log_softmax(-1)
        losses += [-float(log_probs[i, segment[i + 1]]) for i in range(len(segment) - 1)]
    assert data["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    assert data["nll"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    said = {"tokens": 70, "scored": 67, "window": 32, "stride": 32, "windows": 3, "bos": False, "quantize": mode,
            "dtype": "float32", "model": str(tiny_folder)}  # fmt: skip
    assert {name: data[name] for name in said} == said


def test_the_protocol_is_stated(cutaway: Run, tiny_folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch):
    done = cutaway("perplexity", file, "--model", tiny_folder, "--window", 32, "--stride", 8, "--limit", 70)
    assert (done.code, done.err) == (0, "")
    for part in ("perplexity ", "int8, float32", "6 windows of 32 tokens at most, one every 8 tokens",
                 "their last 8 at most",
                 "no BOS", "69 of 70 tokens scored"):  # fmt: skip
        assert part in done.out
    whole = cutaway("perplexity", file, "--model", tiny_folder)
    short = cutaway("perplexity", file, "--model", tiny_folder, "--limit", 9)
    assert "1 window of 9 tokens" in short.out
    assert "1 window of 121 tokens, one after another" in whole.out and "first token of each" in whole.out
    assert max(map(len, done.out.splitlines()[1:])) <= 80


def test_standard_input_and_the_context(cutaway: Run, tiny_folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch):
    with file.open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        piped = cutaway("perplexity", "-", "--model", tiny_folder, "--window", 32, "--limit", 70, "--json")
    named = cutaway("perplexity", file, "--model", tiny_folder, "--window", 32, "--limit", 70, "--json")
    assert piped == named


def test_what_cannot_be_scored_is_one_sentence(cutaway: Run, tiny_folder: Path, file: Path, tmp_path: Path):
    run = ["perplexity", file, "--model", tiny_folder]
    refused(cutaway(*run, "--window", 1), "--window 1", f"2 to {CONTEXT}, the model's context")
    refused(cutaway(*run, "--window", CONTEXT + 1), f"--window {CONTEXT + 1}")
    refused(cutaway(*run, "--window", 8, "--stride", 9), "--stride 9", "1 to 8, the window")
    refused(cutaway(*run, "--stride", 0), "--stride 0")
    refused(cutaway(*run, "--limit", 1), "--limit 1", "2 or above")
    refused(cutaway(*run, "--quantize", "int4"), "--quantize int4")
    refused(cutaway("perplexity", tmp_path / "nothing.txt", "--model", tiny_folder), "no file", "nothing.txt")
    for name, content, found in (("empty", b"", "an empty file"), ("latin", b"caf\xe9", "no UTF-8 (byte 3)"),
                                 ("short", b"a", "a text of 1 token")):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        refused(cutaway("perplexity", tmp_path / name, "--model", tiny_folder), found)
