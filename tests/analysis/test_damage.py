"""Each layer's rounding by itself: against models loaded so, the formula of the shares, and what is refused."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from cutaway.analysis import damage as module
from cutaway.analysis.compare import kl_divergence
from cutaway.analysis.damage import Damage, MixedModel, damage
from cutaway.ground.errors import BadArgument, BadText
from cutaway.lm import LM, load
from cutaway.quant.explain import int8_layers
from cutaway.quant.formats import Mode
from cutaway.text.pieces import Tokens
from cutaway.weights.opening import quantize
from tests.tiny import WITH_TOKENIZER, tiny_lm

TEXTS = ["the cat sat on the mat and the dog", "naïve café"]
MODE = "int8"


@pytest.fixture(scope="module", params=WITH_TOKENIZER)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LM, Damage]:
    folder = tmp_path_factory.mktemp(request.param)
    lm = tiny_lm(request.param, folder)
    return folder, lm, lm.damage(TEXTS, MODE)


def logits(lm: LM, texts: list[str] = TEXTS) -> torch.Tensor:
    """At real positions, [P, V]."""
    return lm.logits(texts)[lm.tokens(texts).mask.bool()]


def test_a_layer_alone_is_a_model_loaded_with_all_others_kept(case: tuple[Path, LM, Damage]):
    folder, lm, found = case
    names, full_PV = [layer.name for layer in found.layers], logits(lm)
    assert names == list(int8_layers(load(folder, quantize=MODE, device="cpu").decoder))
    for layer in (*found.layers[:5], found.layers[-1]):
        others = [name for name in names if name != layer.name]
        one = load(folder, quantize=MODE, keep=others, device="cpu")
        assert layer.alone == pytest.approx(float(kl_divergence(full_PV, logits(one)).mean()), rel=1e-2, abs=1e-9)
        same = full_PV.argmax(-1) == logits(one).argmax(-1)
        assert layer.agreement == pytest.approx(float(same.float().mean()))
        sizes = (sum(t.nbytes for t in of.decoder.get_submodule(layer.name).state_dict().values()) for of in (one, lm))
        assert (layer.bytes, layer.full_bytes) == tuple(sizes)


def test_the_whole_and_the_kept_are_those_of_models_loaded_so(case: tuple[Path, LM, Damage]):
    folder, lm, found = case
    full_PV = logits(lm)
    all_PV = logits(load(folder, quantize=MODE, device="cpu"))
    assert found.total == pytest.approx(float(kl_divergence(full_PV, all_PV).mean()), rel=1e-3)
    assert found.agreement == pytest.approx(float((full_PV.argmax(-1) == all_PV.argmax(-1)).float().mean()))
    kept_PV = logits(load(folder, quantize=MODE, keep=found.keep, device="cpu"))
    assert found.measured == pytest.approx(float(kl_divergence(full_PV, kept_PV).mean()), rel=1e-3)
    assert found.positions == len(full_PV)


def test_the_shares_sum_to_the_whole_and_predict_what_keeping_saves(case: tuple[Path, LM, Damage]):
    _, lm, found = case
    assert sum(layer.share for layer in found.layers) == pytest.approx(found.total, rel=0.05)
    assert found.total - found.predicted == pytest.approx(found.total - found.measured, rel=0.2)
    shares = sorted((layer.share for layer in found.layers), reverse=True)
    assert [layer.share for layer in found.layers if layer.name in found.keep] == pytest.approx(
        [s for layer in found.layers for s in [layer.share] if s >= shares[2]]
    )
    (one,) = (layer for layer in found.layers if layer.name == found.keep[0])
    alone = lm.damage(TEXTS, MODE, suggest=1)
    assert alone.keep == found.keep[:1] and alone.total - alone.predicted == pytest.approx(one.saves, rel=1e-4)


def test_the_same_again_and_nothing_left_in_the_model(case: tuple[Path, LM, Damage], monkeypatch: pytest.MonkeyPatch):
    _, lm, found = case
    before = logits(lm)
    assert lm.damage(TEXTS, MODE) == found
    assert not int8_layers(lm.decoder) and torch.equal(logits(lm), before)
    monkeypatch.setattr(module, "AT_ONCE", 3)
    other = lm.damage(TEXTS, MODE)
    assert [layer.alone for layer in other.layers] == pytest.approx([layer.alone for layer in found.layers], rel=1e-6)


def test_padding_changes_nothing(case: tuple[Path, LM, Damage]):
    _, lm, found = case
    left = lm.damage(lm.tokenize(TEXTS, padding_side="left"), MODE)
    assert left.positions == found.positions and left.total == pytest.approx(found.total, rel=1e-3)
    apart = [lm.damage(text, MODE) for text in TEXTS]
    mean = sum(each.total * each.positions for each in apart) / found.positions
    assert mean == pytest.approx(found.total, rel=1e-3)


def test_any_mode_and_any_precision(tmp_path: Path):
    lm = tiny_lm("llama", tmp_path, dtype="bfloat16")
    for mode in get_args(Mode):
        found = lm.damage(TEXTS, mode, suggest=13)
        assert len(found.layers) == 13 and found.measured == 0 and found.total > 0


def test_the_kl_of_tiny_changes_is_half_their_variance(case: tuple[Path, LM, Damage]):
    lm = case[1]
    mixed = MixedModel(lm.decoder, lm.decoder, lm.tokens(TEXTS))
    full_PV = mixed.full_PV = torch.zeros_like(mixed.full_PV)  # so that a tiny change is not rounded away
    mixed.probs_PV = full_PV.softmax(-1)
    change_PV = torch.linspace(-1, 1, full_PV.numel(), dtype=torch.float32, device="cpu").view_as(full_PV)
    found = mixed.change(change_PV, change_PV)
    assert found.kl == pytest.approx(float(kl_divergence(full_PV, change_PV).mean()), rel=1e-5)
    for scale in (1e-3, 1e-6):
        tiny = mixed.change(change_PV * scale, change_PV * scale)
        assert tiny.covariance == pytest.approx(found.covariance * scale**2, rel=1e-4)
        assert tiny.kl == pytest.approx(tiny.covariance / 2, rel=1e-2)


def test_only_the_first_tokens_are_read(case: tuple[Path, LM, Damage]):
    _, lm, _ = case
    tokens = lm.tokenize("the cat sat on the mat")
    short = lm.damage("the cat sat on the mat" * 99, MODE, limit=6)  # beyond the context, too
    assert short == lm.damage(tokens.ids[:, :6], MODE)
    assert lm.damage(TEXTS, MODE, limit=8).positions == 4 + min(4, int(lm.tokens(TEXTS).lengths[1]))


def test_the_first_tokens_of_padded_texts():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]], device="cpu")
    first = Tokens.from_ids(torch.arange(15, device="cpu").view(3, 5), mask).first(3)
    assert first.ids.tolist()[:2] == [[2, 3, 4], [5, 6, 7]] and int(first.ids[2, 0]) == 14
    assert first.mask.tolist() == [[1, 1, 1], [1, 1, 1], [1, 0, 0]]
    assert first.first(3) is first


def test_what_has_no_damage_is_one_sentence(tmp_path: Path):
    lm = tiny_lm("llama", tmp_path / "full")
    with pytest.raises(BadArgument, match=r"a model in 8 bits; expected one in full precision"):
        load(tmp_path / "full", device="cpu").damage(TEXTS)
    saved = quantize(tmp_path / "full", tmp_path / "saved")
    with pytest.raises(BadArgument, match="or the model that it was made from"):
        load(saved, device="cpu").damage(TEXTS)
    with pytest.raises(BadArgument, match="quantize='int4'"):
        lm.damage(TEXTS, "int4")
    with pytest.raises(BadText, match="a text of 1 token; expected at least 2"):
        lm.damage("a")
    with pytest.raises(BadArgument, match="no texts"):
        lm.damage([])
    with pytest.raises(BadArgument, match="suggest=14; expected 1 to 13, the layers in 8 bits"):
        lm.damage(TEXTS, suggest=14)
    for name, value in (("suggest", 0), ("limit", 1), ("limit", 2.5)):
        with pytest.raises(BadArgument, match=f"{name}={value}"):
            lm.damage(TEXTS, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(BadArgument):
        damage(lm.decoder, lm.decoder, lm.tokens(TEXTS))  # which has no layer in 8 bits
