"""A saved trace: the same values, tokens and facts without the model; a broken file is one sentence."""

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from cutaway.ground.errors import BadArgument, BadCheckpoint
from cutaway.ground.sites import all_sites
from cutaway.lm import LM
from cutaway.trace.trace import Trace


def test_what_is_loaded_is_what_was_saved(lm: LM, tmp_path: Path):
    trace = lm.trace(["a b c", "a"])
    trace.save(tmp_path / "t.safetensors")
    again = Trace.load(tmp_path / "t.safetensors")
    assert list(again) == list(trace) and set(again) == set(all_sites(lm.config))
    assert all(torch.equal(again[site], trace[site]) for site in trace)
    assert again.config == trace.config and again.model == trace.model and again.attention == trace.attention
    assert again.tokens.pieces == trace.tokens.pieces and torch.equal(again.tokens.mask, trace.tokens.mask)
    assert [path.name for path in tmp_path.glob("*t.safetensors*")] == ["t.safetensors"]


def test_a_truncated_or_foreign_file_is_refused(lm: LM, tmp_path: Path):
    path = tmp_path / "t.safetensors"
    lm.trace("a b", sites="logits").save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BadCheckpoint, match=r"expected a whole trace; record it again"):
        Trace.load(path)
    with pytest.raises(BadCheckpoint, match="found no file"):
        Trace.load(tmp_path / "none.safetensors")
    torch_file = lm.checkpoint.path / "model.safetensors"
    with pytest.raises(BadCheckpoint, match="expected 'cutaway trace 2'"):
        Trace.load(torch_file)


def test_a_place_that_cannot_be_written(lm: LM, tmp_path: Path):
    with pytest.raises(BadArgument, match="save it elsewhere"):
        lm.trace("a b", sites="logits").save(tmp_path / "none" / "t.safetensors")


def test_the_pass_ends_at_the_last_site(lm: LM, monkeypatch: pytest.MonkeyPatch):
    """What comes after is not computed, and what was recorded is what the whole pass gives."""
    whole = lm.trace("a b c")
    monkeypatch.setattr(lm.decoder.unembed.head, "forward", Mock(side_effect=AssertionError("the head was computed")))
    early = lm.trace("a b c", sites="blocks.1.mlp_out")
    assert list(early) == ["blocks.1.mlp_out"]
    assert torch.allclose(early["blocks.1.mlp_out"], whole["blocks.1.mlp_out"], atol=1e-5)
    with pytest.raises(AssertionError, match="head was computed"):
        lm.trace("a b c", sites="logits")
