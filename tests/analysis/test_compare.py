"""The comparison: each number recomputed from its definition in float64, on tiny models with outliers and padding."""

import math
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch

from cutaway.analysis import compare
from cutaway.analysis.compare import compare_sites, compared_sites, kl_divergence, next_tokens, outlier_layers
from cutaway.ground.errors import BadArgument
from cutaway.ground.sites import all_sites, block_exit
from cutaway.lm import LM
from cutaway.quant.explain import int8_layers
from cutaway.trace.trace import Trace
from tests.tiny import WITH_TOKENIZER, tiny_lm

TEXTS = ["the cat sat on the", "naïve"]


class Pair(NamedTuple):
    lm: LM  # in 8 bits
    full: Trace
    int8: Trace


@pytest.fixture(scope="module", params=WITH_TOKENIZER)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folders = (tmp_path_factory.mktemp(request.param) for _ in range(2))
    plain, small = (tiny_lm(request.param, folder, mode) for folder, mode in zip(folders, (None, "int8"), strict=True))
    for lm in (plain, small):
        gain = lm.decoder.get_submodule("blocks.1.ln1").weight
        gain.data = gain.data * 5  # type: ignore[operator, union-attr]
    tokens = plain.tokenize(TEXTS, padding_side="left")
    return Pair(small, plain.trace(tokens), small.trace(tokens))


def test_every_site_by_the_definition_padding_left_out(pair: Pair):
    _, full, small = pair
    found = compare_sites(full, small)
    assert list(found) == list(all_sites(full.config))
    mask = full.tokens.mask.bool()
    for site, apart in found.items():
        a, b = full[site].double(), small[site].double()
        if all_sites(full.config)[site].shape == "B H T S":
            a, b = a.transpose(1, 2), b.transpose(1, 2)
        a, b = torch.cat([a[i][mask[i]] for i in range(2)]), torch.cat([b[i][mask[i]] for i in range(2)])
        seen = a.isfinite()
        assert seen.all() or site.endswith("attn.scores")
        a, b = a[seen], b[seen]
        assert apart.relative_error == pytest.approx(float((a - b).norm() / a.norm()), rel=1e-9, abs=1e-12)
        assert apart.cosine == pytest.approx(float((a @ b) / a.norm() / b.norm()), rel=1e-9)
    assert found["embed.token"].relative_error == 0 < found["logits"].relative_error < 1


def test_chunks_do_not_change_the_numbers(pair: Pair, monkeypatch: pytest.MonkeyPatch):
    _, full, small = pair
    before, effect = compare_sites(full, small), next_tokens(full, small)
    monkeypatch.setattr(compare, "AT_ONCE", 2)
    for site, apart in compare_sites(full, small).items():
        assert apart.relative_error == pytest.approx(before[site].relative_error, rel=1e-12)
    assert next_tokens(full, small).kl == effect.kl


def test_values_that_are_zero_or_no_number(pair: Pair):
    _, full, _ = pair

    def having(value: float) -> Trace:
        return replace(full, values_by_site={"logits": torch.full_like(full["logits"], value)})

    same = compare_sites(having(0.0), having(0.0))["logits"]
    assert same.relative_error == 0 and math.isnan(same.cosine)
    assert compare_sites(having(0.0), having(1.0))["logits"].relative_error == math.inf
    assert math.isnan(compare_sites(having(1.0), having(math.nan))["logits"].relative_error)


def test_outliers_are_counted_at_real_positions(pair: Pair):
    lm, _, small = pair
    found = {layer.layer: layer for layer in outlier_layers(small, lm.decoder)}
    post = lm.config.post_norm
    mask = small.tokens.mask.bool()
    name = "blocks.1.mlp.up" if post else "blocks.1.attn.qkv"
    assert name in found and found[name].site == "blocks.1.ln1.out"
    for layer, site in ((name, "blocks.1.ln1.out"), ("blocks.0.mlp.down", "blocks.0.mlp.post")):
        x = small[site][mask].abs() >= 6
        if not x.any():
            assert layer not in found
            continue
        columns = tuple(column for column in range(x.shape[1]) if x[:, column].any())
        assert found[layer].columns == columns
        assert (found[layer].tokens, found[layer].of) == (sum(bool(row.any()) for row in x), int(mask.sum()))
    assert set(found) <= set(int8_layers(lm.decoder))


def test_the_next_token_by_the_definition(pair: Pair):
    _, full, small = pair
    effect = next_tokens(full, small, top=5)
    every, same = [], []
    for row in range(2):
        real = full.tokens.mask[row].bool()
        p, q = (trace["logits"][row][real].double().softmax(-1) for trace in (full, small))
        kl = (p * (p / q).log()).sum(-1)
        torch.testing.assert_close(torch.tensor(effect.kl[row]).double(), kl, rtol=1e-5, atol=1e-8)
        assert list(effect.agree[row]) == (p.argmax(-1) == q.argmax(-1)).tolist()
        for told, probs in ((effect.full, p[-1]), (effect.int8, q[-1])):
            best = sorted(range(len(probs)), key=lambda i: -float(probs[i]))[:5]
            assert [token for token, _ in told[row]] == best
            assert [prob for _, prob in told[row]] == pytest.approx([float(probs[i]) for i in best])
        every += kl.tolist()
        same += list(effect.agree[row])
    assert len(every) == int(full.tokens.mask.sum())
    assert effect.mean_kl == pytest.approx(sum(every) / len(every), rel=1e-6) and effect.mean_kl > 0
    assert effect.top1_agreement == pytest.approx(sum(same) / len(same))
    alike = next_tokens(full, full)
    assert alike.mean_kl == 0 and alike.top1_agreement == 1


def test_kl_of_known_distributions():
    p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.5, 0.25]])
    assert float(kl_divergence(p.log(), q.log() + 3)) == pytest.approx(0.25 * math.log(2))


def test_the_default_sites_are_enough(pair: Pair):
    lm, full, _ = pair
    sites = compared_sites(lm.config)
    assert {"logits", "blocks.0.attn_out", block_exit(lm.config, 2)} <= set(sites)
    assert not any(site.endswith(("scores", "pattern", "scale", "normalized")) for site in sites)  # the fast path runs
    small = lm.trace(full.tokens, sites)
    outlier_layers(small, lm.decoder)
    next_tokens(full, small)


def test_traces_that_do_not_belong_together_are_refused(pair: Pair):
    lm, full, small = pair
    with pytest.raises(BadArgument, match="two traces of the same tokens"):
        compare_sites(full, lm.trace("the cat"))
    with pytest.raises(BadArgument, match="a site that it recorded"):
        compare_sites(full, lm.trace(full.tokens, "logits"))
    with pytest.raises(BadArgument, match="a site that it recorded"):
        outlier_layers(lm.trace("the cat", "logits"), lm.decoder)
    assert next_tokens(full, small).kl
