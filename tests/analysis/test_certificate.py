"""The certificate holds for every family, in full precision and in 8 bits, and fails for a model broken on purpose."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from cutaway.ground.errors import BadArgument
from cutaway.lm import LM, load
from cutaway.quant.formats import Mode
from tests.apps.conftest import Run, cutaway, tiny_folder  # noqa: F401  fixtures
from tests.parity import real
from tests.tiny import WITH_TOKENIZER, tiny_lm


@pytest.fixture(params=WITH_TOKENIZER)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    tiny_lm(request.param, tmp_path)
    return tmp_path


def test_every_family_passes_against_transformers_too(folder: Path):
    lm = load(folder, quantize=None, device="cpu")
    certificate = lm.check(against="transformers")
    assert certificate.passed, str(certificate)
    assert len(certificate.lines) == 16 - lm.config.parallel  # which has no resid_mid
    assert max(map(len, str(certificate).splitlines())) <= 80
    exact = load(folder, quantize=None, dtype="float64", device="cpu").check()
    assert exact.passed and max(line.error for line in exact.lines if not line.at_least) < 1e-9, str(exact)


@pytest.mark.parametrize("mode", get_args(Mode))
def test_in_8_bits_each_tolerance_that_is_wider_says_why(folder: Path, mode: str):
    certificate = load(folder, quantize=mode, device="cpu").check()
    assert certificate.passed, str(certificate)
    assert all(line.why for line in certificate.lines if not line.at_least and line.tolerance > 2e-4)
    with pytest.raises(BadArgument, match="a model in 8 bits"):
        load(folder, quantize=mode, device="cpu").check(against="transformers")


def transposed(lm: LM) -> None:
    layer = lm.decoder.get_submodule("blocks.1.attn.out")
    layer.weight = nn.Parameter(layer.weight.T.contiguous(), requires_grad=False)  # type: ignore[union-attr,operator]


def shifted(lm: LM) -> None:
    lm.decoder.embed.offset = lm.decoder.embed.offset + 1 if lm.decoder.embed.offset == 0 else 1


def without_a_bias(lm: LM) -> None:
    layer = lm.decoder.get_submodule("blocks.2.mlp.down")
    layer.bias = None  # type: ignore[assignment]


def swapped(lm: LM) -> None:
    layer = lm.decoder.get_submodule("blocks.0.attn.qkv")
    q, k, v = layer.weight.chunk(3)  # type: ignore[operator]
    layer.weight = nn.Parameter(torch.cat((k, q, v)), requires_grad=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("break_it", [transposed, shifted, without_a_bias, swapped])
@pytest.mark.parametrize("name", ["opt", "gpt2"])
def test_a_broken_model_fails(tmp_path: Path, name: str, break_it: Callable[[LM], None]):
    lm = tiny_lm(name, tmp_path)
    break_it(lm)
    certificate = lm.check(against="transformers")
    assert not certificate.passed
    failed = {line.claim for line in certificate.lines if not line.passed}
    assert "weights and facts = the checkpoint's" in failed  # alone and at once
    theirs = {
        f"{what} = transformers' in {dtype}" for what in ("every block", "logits") for dtype in ("float32", "float64")
    }
    assert theirs <= failed  # and by the model's author
    assert "FAILS" in str(certificate) and "claims fail" in str(certificate)


def test_a_norm_that_computes_something_else_fails_by_its_formula(tmp_path: Path):
    lm = tiny_lm("llama", tmp_path)
    lm.decoder.blocks[1].ln1.eps = 0.5  # type: ignore[union-attr]
    failed = [line for line in lm.check().lines if not line.passed]
    assert "blocks.1.ln1.scale" in {line.where for line in failed}


def test_an_edit_that_is_ignored_fails(tmp_path: Path):
    lm = tiny_lm("gpt2", tmp_path)
    lm.decoder.blocks[2].mlp.down.weight.zero_()  # type: ignore[union-attr,operator]  what the MLP holds goes nowhere
    line = next(line for line in lm.check().lines if line.at_least)
    assert not line.passed and line.where.startswith("blocks.2.")


def test_bad_questions_are_refused(tmp_path: Path):
    lm = tiny_lm("gpt2", tmp_path)
    with pytest.raises(BadArgument, match=r"against='llama.cpp'"):
        lm.check(against="llama.cpp")
    with pytest.raises(BadArgument, match="1 texts"):
        lm.check("the cat")
    (tmp_path / "config.json").rename(tmp_path / "gone.json")
    with pytest.raises(BadArgument, match="which transformers cannot load"):
        lm.decoder.config and lm.check(["the cat sat", "a"], against="transformers")


def test_the_verb(cutaway: Run, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    data = json.loads(cutaway("check", "--model", tiny_folder, "--json").out)
    assert data["passed"] and {"cutaway", "torch", "transformers", "python"} <= data["versions"].keys()
    done = cutaway("check", "--model", tiny_folder, "--quantize", "none", "--against", "transformers")
    assert done.code == 0 and "claims hold" in done.out
    from cutaway import keeping as front

    opened = front.open_model

    def broken(*args: object, **kwargs: object) -> object:
        decoder, checkpoint, name = opened(*args, **kwargs)  # type: ignore[arg-type]
        decoder.blocks[0].ln1.weight.mul_(2)
        return decoder, checkpoint, name

    monkeypatch.setattr(front, "open_model", broken)
    done = cutaway("check", "--model", tiny_folder)
    assert done.code == 1 and "FAILS" in done.out and done.err == ""
    refused = cutaway("check", "--against", "nobody")
    assert refused.code == 2 and "--against nobody" in refused.err


@pytest.mark.real
@pytest.mark.xdist_group("real")
def test_the_default_model_passes():
    certificate = real.ours().check(against="transformers")
    assert certificate.passed, str(certificate)
    in_8_bits = load(real.file(), device="cpu").check()
    assert in_8_bits.passed, str(in_8_bits)
