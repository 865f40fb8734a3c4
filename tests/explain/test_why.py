"""Elements of every site explained: the terms are recorded values, in every family, padded, and in 8 bits."""

import itertools
import json
import math
import re
from pathlib import Path
from typing import get_args

import pytest
import torch

from cutaway.explain.formula import recompute
from cutaway.explain.why import Why, parent_indexes
from cutaway.ground.errors import BadArgument
from cutaway.ground.sites import all_sites
from cutaway.lm import LM, load
from cutaway.quant import native
from cutaway.quant.formats import Mode
from cutaway.trace.trace import Trace
from tests.tiny import WITH_TOKENIZER as CONFIGS
from tests.tiny import batch, saved, tiny_lm

TEXTS = ["the cat sat on", "the dog"]
MODES = [None, *get_args(Mode)]


@pytest.fixture(scope="module", params=[(name, mode) for name in CONFIGS for mode in MODES], ids=str)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LM:
    name, mode = request.param
    folder = tmp_path_factory.mktemp("model")
    tiny_lm(name, folder)
    return load(folder, quantize=mode, dtype="float32", device="cpu")


def elements(trace: Trace, site: str, count: int) -> list[tuple[int, ...]]:
    random = torch.Generator().manual_seed(len(site))
    shape = trace[site].shape
    return [tuple(int(torch.randint(n, (), generator=random)) for n in shape) for _ in range(count)]


def sum_of(found: Why) -> float | None:
    """The number from the terms alone, where it is a sum of them; in 8 bits the outliers' weights are not rounded."""
    kind = found.site.rpartition(".")[2]
    if kind not in ("resid_pre", "resid_mid", "resid_post", "z", "q", "k", "v", "attn_out", "mlp_out", "logits"):
        return None
    bias = sum(float(note.split()[1]) for note in found.notes if note.startswith("bias"))
    return math.fsum(term.contribution for term in found.terms) + bias


def test_every_site_is_recomputed_from_its_parents(lm: LM):
    trace = lm.trace(TEXTS)
    for site, value in trace.items():
        finite = value[value.isfinite()]
        tolerance = 2e-5 * max(float(finite.abs().max()), 1.0)
        for index in elements(trace, site, 2):
            found = lm.why(trace, site, *index)
            assert found.value == float(value[index]) and found.site == site
            assert abs(found.difference) <= tolerance, f"{site}{index}: {found}"
            for term in found.terms:
                named = re.fullmatch(r"([\w.]+)\[([\d, ]+)\]", term.what)
                if named and named[1] in trace and term.codes is None:
                    assert term.value == float(trace[named[1]][tuple(map(int, named[2].split(", ")))]), term.what
            total = sum_of(found)
            if total is not None:
                assert total == pytest.approx(found.value, abs=10 * tolerance), f"{site}{index}"
            assert max(map(len, str(found).splitlines())) <= 80, str(found)


def test_a_wrong_value_shows(lm: LM):
    trace = lm.trace(TEXTS)
    trace["blocks.1.attn.z"][0, 1, 2, 3] += 1.0
    assert lm.why(trace, "blocks.1.attn.z", 0, 1, 2, 3).difference == pytest.approx(-1.0, abs=1e-4)


@pytest.mark.parametrize("mode", get_args(Mode))
def test_in_8_bits_the_codes_are_shown(tmp_path: Path, mode: str):
    tiny_lm("llama", tmp_path)
    lm = load(tmp_path, quantize=mode, device="cpu")
    trace = lm.trace(TEXTS[0])
    found = lm.why(trace, "blocks.0.mlp.pre", 0, 2, 5)
    layer = lm.decoder.get_submodule("blocks.0.mlp.up")
    for k, term in enumerate(found.terms):
        assert term.codes is not None and term.codes[1] == int(layer.codes[5, k])  # type: ignore[union-attr,index]
        off = abs(term.value - float(trace["blocks.0.ln2.out"][0, 2, k]))  # the code's value, not the value's
        assert off < (1e-4 if mode == "int8" else 0.05)
    assert "codes" in str(found) and ("sums" if mode == "int8" else "sum") + " of code · code" in str(found)
    assert ("groups of 32 columns" in " ".join(str(found).split())) == (mode == "int8")
    assert json.loads(json.dumps(found.as_data()))["terms"][0]["codes"] == list(found.terms[0].codes or ())


def test_a_heads_mix_is_recomputed_row_by_row_with_the_bits_of_the_pass(tmp_path: Path):
    lm = tiny_lm("gpt2", tmp_path)
    trace = lm.trace(TEXTS)
    whole = recompute("blocks.1.attn.z", trace.values_by_site, trace.tokens, lm.decoder)
    tolerance = 0.0 if native.available else 1e-6
    for index in itertools.product(*map(range, trace["blocks.1.attn.z"].shape)):
        found = lm.why(trace, "blocks.1.attn.z", *index)
        assert found.recomputed == float(whole[index])
        assert abs(found.difference) <= tolerance


def test_a_generations_trace_is_explained_too(tmp_path: Path):
    lm = tiny_lm("gpt2", tmp_path)
    trace = lm.generate(TEXTS, sites="*", max_new_tokens=5).trace
    last = trace.tokens.ids.shape[1] - 1
    for site, axes in all_sites(lm.config).items():
        index = (0, 0, last, 1) if axes.shape == "B H T S" else (0, last, *(0 for _ in axes.shape.split()[2:]))
        assert abs(lm.why(trace, site, *index).difference) < 1e-4, site


def test_what_cannot_be_explained_is_told(tmp_path: Path):
    lm = tiny_lm("gpt2", tmp_path)
    trace = lm.trace(TEXTS[0])
    with pytest.raises(BadArgument, match=r"blocks.0.attn.z\[0, 1\].*B T H K = \["):
        lm.why(trace, "blocks.0.attn.z", 0, 1)
    with pytest.raises(BadArgument, match=r"blocks.0.attn.z"):
        lm.why(trace, "blocks.0.attn.z", 0, 99, 0, 0)
    with pytest.raises(BadArgument, match=r"no blocks.0.attn.pattern, blocks.0.attn.v in this trace"):
        lm.why(lm.trace(TEXTS[0], "blocks.0.attn.z"), "blocks.0.attn.z", 0, 1, 0, 0)
    trace.save(tmp_path / "t.safetensors")
    loaded = Trace.load(tmp_path / "t.safetensors")
    assert abs(lm.why(loaded, "logits", 0, 1, 2).difference) < 1e-4
    other = tiny_lm("llama", tmp_path / "other")
    with pytest.raises(BadArgument, match=r"expected a trace of this model"):
        other.why(loaded, "logits", 0, 1, 2)


def test_the_parents_of_an_element_are_the_ones_that_change_it(lm: LM):
    """Where one element of a parent is named, it is a term; a None axis is one along which all are read."""
    trace = lm.trace(TEXTS[0])
    for site in all_sites(lm.config):
        index = tuple(n - 1 for n in trace[site].shape)
        for parent, at in parent_indexes(lm.config, site, index):
            assert len(at) == trace[parent].ndim
            assert all(i is None or 0 <= i < n for i, n in zip(at, trace[parent].shape, strict=True))
            exact = f"{parent}[{', '.join(map(str, at))}]"
            if None not in at and not site.endswith(("scores", "scale", "pattern")):
                terms = [term.what for term in lm.why(trace, site, *index).terms]
                assert exact in terms, (site, exact, terms[:4])
    assert dict(parent_indexes(lm.config, "blocks.1.attn.z", (0, 2, 3, 1))) == {
        "blocks.1.attn.pattern": (0, 3, 2, None),
        "blocks.1.attn.v": (0, None, 3 * lm.config.n_kv_heads // 4, 1),
    }


@pytest.mark.parametrize("mode", [None, "int8"])
def test_a_sink_s_share_and_what_a_limit_holds_are_told(tmp_path: Path, mode: str | None):
    lm = load(saved("gpt_oss-drawn", tmp_path)[0], quantize=mode, dtype="float32", device="cpu")
    trace = lm.trace(batch([3, 5, 7, 2, 9, 4, 10, 1, 6], [8, 3, 3, 6, 4]))
    for head, at in itertools.product(range(4), range(5)):
        found, row_S = (
            lm.why(trace, "blocks.1.attn.pattern", 1, head, at, 0),
            trace["blocks.1.attn.pattern"][1, head, at],
        )
        share = float(re.match(r"a row sums to 1 - ([\d.e-]+), the share", found.notes[1])[1])  # pyright: ignore
        assert abs(found.difference) < 1e-6 and share == pytest.approx(1 - float(row_S.sum()), abs=1e-5)
    expert, limit, told = int(trace["blocks.1.mlp.router_scores"][0, 4].argmax()), lm.config.mlp_limit, set[str]()
    assert limit is not None
    for unit in range(lm.config.d_mlp):
        found = lm.why(trace, "blocks.1.mlp.post", 0, 4, expert, unit)
        gate, linear = (term.value for term in found.terms)
        assert len(found.notes) == (gate > limit) + (abs(linear) > limit) and abs(found.difference) < 1e-5
        told |= set(found.notes)
    assert told == {"the gate is held at 0.5", *(f"the linear branch is held at {at}" for at in (0.5, -0.5))}
