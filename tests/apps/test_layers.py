"""`cutaway compare --layers`: the numbers of lm.damage, the table, a list that --keep takes, and what is refused."""

import json
from pathlib import Path

import pytest

import cutaway as package
from cutaway.weights.opening import quantize

from .conftest import Run
from .test_bad_input import refused

TEXTS = ["the cat sat on the mat and the dog ran to the cat", "naïve café"]
MODE = "llm-int8"


def test_the_numbers_are_those_of_the_method(cutaway: Run, tiny_folder: Path):
    done = cutaway("compare", *TEXTS, "--layers", "--quantize", MODE, "--model", tiny_folder, "--suggest", 2, "--json")
    assert (done.code, done.err) == (0, "")
    data, found = json.loads(done.out), package.load(tiny_folder, quantize=None).damage(TEXTS, MODE, suggest=2)
    assert data["layers"] == [vars(layer) | {"saves": layer.saves} for layer in found.layers]
    assert [data[name] for name in ("mode", "dtype", "positions", "total", "agreement")] == [
        MODE, "float32", found.positions, found.total, found.agreement
    ]  # fmt: skip
    keep, kept = data["keep"], [layer for layer in found.layers if layer.name in found.keep]
    assert (keep["layers"], keep["predicted"], keep["measured"]) == ([*found.keep], found.predicted, found.measured)
    assert keep["bytes"] == sum(layer.bytes for layer in kept) < keep["full_bytes"]
    for sums in (data["by_block"], data["by_kind"]):
        assert sum(of["layers"] for of in sums.values()) == len(found.layers) == 9
        for name in ("alone", "share"):
            assert sum(of[name] for of in sums.values()) == pytest.approx(sum(of[name] for of in data["layers"]))
    assert list(data["by_block"]) == ["0", "1", "head"]
    assert list(data["by_kind"]) == ["attn.qkv", "attn.out", "mlp.up", "mlp.down", "unembed.head"]
    limited = cutaway("compare", TEXTS[0], "--layers", "--model", tiny_folder, "--limit", 5, "--json")
    assert json.loads(limited.out)["positions"] == 5


@pytest.mark.parametrize("mode", ["int8", MODE])
def test_the_table_fits_80_columns_and_says_it_all(cutaway: Run, tiny_folder: Path, mode: str):
    words = ("compare", *TEXTS, "--layers", "--quantize", mode, "--model", tiny_folder)
    done, data = cutaway(*words), json.loads(cutaway(*words, "--json").out)
    lines = done.out.splitlines()
    assert max(map(len, lines[1:])) <= 80  # the first line holds the name as it was given
    names = [layer["name"] for layer in sorted(data["layers"], key=lambda layer: -layer["share"])]
    first = lines.index(next(line for line in lines if line.startswith("layer ")))
    assert [line.split()[0] for line in lines[first + 1 : first + 10]] == names
    assert data["keep"]["layers"] == names[:3]
    for part in (f"rounding ({mode}) against float32", f"all 9 layers in 8 bits): {data['total']:.6f} nats",
                 "share by block", "2 × attn.qkv", f"--keep {names[0]}", f"{data['keep']['measured']:.6f} measured",
                 "predicted: by the covariance"):  # fmt: skip
        assert part in done.out
    told = abs(sum(layer["share"] for layer in data["layers"]) / data["total"] - 1) >= 0.1
    assert ("do not sum" in done.out) == told


def test_keep_takes_the_list(cutaway: Run, tiny_folder: Path, tmp_path: Path):
    data = json.loads(cutaway("compare", TEXTS[0], "--layers", "--model", tiny_folder, "--json").out)
    keep = [word for name in data["keep"]["layers"] for word in ("--keep", name)]
    done = cutaway("quantize", tiny_folder, tmp_path / "out", *keep)
    assert done.code == 0, done.err


def test_what_has_no_layers_to_compare_is_one_sentence(cutaway: Run, tiny_folder: Path, tmp_path: Path):
    run = ["compare", TEXTS[0], "--layers", "--model", tiny_folder]
    refused(cutaway("compare", "--layers", "--model", tiny_folder), "missing argument", "TEXT")
    refused(cutaway("compare", "a", "--layers", "--model", tiny_folder), "a text of 1 token", "at least 2 tokens")
    refused(cutaway("compare", "", "--layers", "--model", tiny_folder), "an empty text")
    refused(cutaway(*run, "--suggest", 10), "suggest=10", "1 to 9")
    refused(cutaway(*run, "--limit", 1), "--limit", "see cutaway compare --help")
    refused(cutaway(*run, "--quantize", "none"), "--quantize none")
    refused(cutaway(*run, "--block", 1), "--block", "with --layers")
    refused(cutaway(*run, "--sites", "logits"), "--sites", "with --layers")
    refused(cutaway("compare", "a b", "--limit", 9, "--model", tiny_folder), "--limit", "without --layers")
    out = quantize(tiny_folder, tmp_path / "out")
    refused(cutaway("compare", TEXTS[0], "--layers", "--model", out), "in 8 bits already", "that it was made from")
