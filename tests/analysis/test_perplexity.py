"""Perplexity: against a direct computation in torch, and against the loss that transformers gives, both protocols."""

import math
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM

from cutaway.analysis import perplexity as module
from cutaway.analysis.perplexity import perplexity, spans
from cutaway.ground.errors import BadArgument, BadText
from cutaway.lm import LM, load
from cutaway.quant.formats import Mode
from tests.tiny import tiny_lm

PROTOCOLS = [(16, 16), (16, 4), (16, 1), (7, 5), (2, 2), (2, 1)]


def text_of(count: int) -> Tensor:
    return torch.randint(1, 300, (count,), generator=torch.Generator().manual_seed(3))


def test_segments_one_after_another_by_the_definition(lm: LM):
    ids, losses = text_of(37), []
    for segment in ids.split(16):
        logits = lm.logits(segment)[0]
        losses += [-float(logits[i].double().log_softmax(-1)[segment[i + 1]]) for i in range(len(segment) - 1)]
    found = perplexity(lm.decoder, ids, window=16, stride=16)
    assert (found.tokens, found.scored, found.windows) == (37, len(losses), 3) and len(losses) == 15 + 15 + 4
    assert found.nll == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)


@pytest.mark.parametrize("stride", [4, 5, 15])
def test_sliding_windows_by_the_definition(lm: LM, stride: int):
    """Every token but the first is scored once, with the context that its window leaves it."""
    ids, losses, done, starts = text_of(37), [], 1, range(0, 37, stride)
    for start in starts:
        end = min(start + 16, 37)
        logits = lm.logits(ids[start:end])[0].double().log_softmax(-1)
        losses += [-float(logits[i - 1 - start][ids[i]]) for i in range(done, end)]
        done = end
        if end == 37:
            break
    found = perplexity(lm.decoder, ids, window=16, stride=stride)
    assert found.scored == len(losses) == 36
    assert found.nll == pytest.approx(sum(losses) / 36, rel=1e-5)


@pytest.mark.parametrize("stride", [16, 4])
def test_it_is_the_loss_of_transformers(lm: LM, stride: int):
    """As transformers' own guide computes it: labels of -100 on what is not scored, losses weighed by their number."""
    model = AutoModelForCausalLM.from_pretrained(lm.checkpoint.path, dtype=torch.float32).eval()
    ids = text_of(48)
    total, count, before = 0.0, 0, 0
    for start in range(0, 48, stride):
        end = min(start + 16, 48)
        labels = ids[start:end].clone()
        labels[: -(end - before)] = -100
        with torch.no_grad():
            loss = float(model(ids[None, start:end], labels=labels[None]).loss)
        scored = int((labels[1:] != -100).sum())
        total, count, before = total + loss * scored, count + scored, end
        if end == 48:
            break
    found = perplexity(lm.decoder, ids, window=16, stride=stride)
    assert found.scored == count
    assert found.perplexity == pytest.approx(math.exp(total / count), rel=1e-5)


@pytest.mark.parametrize("mode", get_args(Mode))
def test_8_bits_are_scored_as_they_run(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch):
    """In chunks, the head gives what it gives to all positions at once: pooled outliers must not be split."""
    tiny_lm("llama", tmp_path)
    small = load(tmp_path, quantize=mode, device="cpu")
    gain = small.decoder.unembed.ln_final.weight  # type: ignore[union-attr]
    gain.data = gain.data * 5
    ids = text_of(24)
    logits = small.logits(ids)[0]
    expected = F.cross_entropy(logits[:-1].double(), ids[1:]).item()
    monkeypatch.setattr(module, "AT_ONCE", 5)
    found = perplexity(small.decoder, ids, window=24, stride=24)
    assert found.nll == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("window", "stride"), PROTOCOLS)
@pytest.mark.parametrize("count", [2, 3, 15, 16, 17, 33, 48])
def test_no_token_is_scored_twice(window: int, stride: int, count: int):
    passes = list(spans(count, window, stride))
    scored = [i for span in passes for i in range(span.scored, span.end)]
    assert len(set(scored)) == len(scored) and scored == sorted(scored)
    assert all(span.start < span.scored < span.end <= span.start + window for span in passes)
    unscored = set(range(count)) - set(scored)
    assert unscored == (set(range(0, count, window)) if stride == window else {0})
    if stride < window:
        assert all(span.end - span.scored <= stride for span in passes[1:])


def test_progress_is_told(lm: LM):
    told: list[tuple[int, int, str]] = []
    perplexity(lm.decoder, text_of(20), window=8, stride=8, progress=lambda *args: told.append(args))
    assert [(done, total) for done, total, _ in told] == [(8, 20), (16, 20), (20, 20)]


def test_a_likelihood_of_nothing_is_infinite_surprise(lm: LM, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "window_losses", lambda *args: [1000.0])
    assert perplexity(lm.decoder, text_of(20), window=8, stride=8).perplexity == math.inf


@pytest.mark.parametrize(
    ("count", "window", "stride", "kind", "message"),
    [
        (20, 1, 1, BadArgument, "window=1"),
        (20, 1000, 8, BadArgument, "the model's context"),
        (20, 8, 9, BadArgument, "stride=9; expected 1 to 8"),
        (20, 8, 0, BadArgument, "stride=0"),
        (1, 8, 8, BadText, "a text of 1 token"),
    ],
)
def test_what_makes_no_sense_is_refused(
    lm: LM, count: int, window: int, stride: int, kind: type[Exception], message: str
):
    with pytest.raises(kind, match=message):
        perplexity(lm.decoder, text_of(count), window=window, stride=stride)
