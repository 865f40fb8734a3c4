"""The questions of analysis/: sums that must hold, hand-made patterns, sweeps against one-at-a-time patching."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cutaway import Edit
from cutaway.analysis import ablation, derived, metric, patching
from cutaway.analysis.attribution import BY, attribute, needed_sites
from cutaway.analysis.gradients import attribution_patching, gradient_times_input
from cutaway.analysis.heads import induction_scores, pattern_sites, repeated_tokens, score_heads
from cutaway.analysis.logit_lens import load_probes, logit_lens, stream_sites
from cutaway.analysis.steering import direction, steer
from cutaway.ground.errors import BadArgument, BadCheckpoint, BadText
from cutaway.lm import load
from cutaway.model.decoder import Decoder
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run
from cutaway.trace.trace import Trace
from tests.explain.by_formula import TOKENS
from tests.parity import real
from tests.tiny import decoder, tiny_lm

FAMILIES = ("opt", "opt-350m-like", "gpt2", "llama-gqa", "opt-projected", "opt-no-final-norm")
CLEAN, CORRUPT = Tokens.from_ids([[3, 5, 7, 2, 9]]), Tokens.from_ids([[3, 5, 8, 2, 9]])
METRIC = metric.logit_difference(4, 6)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return decoder(request.param, tmp_path_factory.mktemp("model"), torch.float64)


@pytest.fixture(scope="module")
def trace(model: Decoder) -> Trace:
    return run(model, TOKENS)


def test_parts_sum_to_what_they_are_parts_of(model: Decoder, trace: Trace):
    for layer in range(model.config.n_layers):
        out, down = model.get_submodule(f"blocks.{layer}.attn.out"), model.get_submodule(f"blocks.{layer}.mlp.down")
        heads = derived.head_outputs(trace, model, layer).sum(2) + out.bias if out.bias is not None else None
        heads = derived.head_outputs(trace, model, layer).sum(2) if heads is None else heads
        torch.testing.assert_close(heads, trace[f"blocks.{layer}.attn_out"])
        neurons = derived.neuron_outputs(trace, model, layer, range(model.config.d_mlp)).sum(2)
        neurons = neurons if down.bias is None else neurons + down.bias
        torch.testing.assert_close(neurons, trace[f"blocks.{layer}.mlp_out"])
    names, stream = derived.accumulated(trace)
    assert all(torch.equal(value, trace[name]) for name, value in zip(names, stream, strict=True))
    if model.config.post_norm:
        with pytest.raises(BadArgument, match="norms its residual stream"):
            derived.decomposed(trace)
        return
    last = trace[stream_sites(model.config)[-1]]
    torch.testing.assert_close(derived.decomposed(trace)[1].sum(0), last)
    folded = derived.apply_final_norm(last, trace, model)
    bias = derived.final_bias(model)
    read = folded if bias is None else folded + bias
    logit = read @ derived.unembedding(model, [7])[0]
    torch.testing.assert_close(logit, trace["logits"][..., 7])


@pytest.mark.parametrize("by", BY)
def test_an_attribution_sums_to_the_logit_with_no_part_left_out(model: Decoder, trace: Trace, by: str):
    if model.config.post_norm:
        with pytest.raises(BadArgument, match="norms its residual stream"):
            attribute(trace, model, 3, by=by)
        return
    enough = run(model, TOKENS, needed_sites(model.config, by))
    for versus in (None, 8):
        found = attribute(enough, model, 3, versus, by, text=1, at=4)
        expected = trace["logits"][1, 4, 3] - (0 if versus is None else trace["logits"][1, 4, versus])
        assert found.logit == pytest.approx(float(expected))
        assert float(found.values.sum()) == pytest.approx(found.logit, abs=1e-8)
        assert "rounding of the head" not in found.what and len(found.what) == len(found.values)
    if by == "head":  # one head, by hand: what it adds, through the norm as it was
        part = derived.head_outputs(trace, model, 1)[1, 4, 2]
        norm = model.unembed.ln_final
        if norm is not None:
            part = part - part.mean() if norm.centered else part
            part = part / trace["ln_final.scale"][1, 4] * norm.weight
        given = float(part @ (derived.unembedding(model, [3]) - derived.unembedding(model, [8]))[0])
        assert float(found.values[found.what.index("blocks.1.attn head 2")]) == pytest.approx(given)
    with pytest.raises(BadArgument, match="by='colour'"):
        attribute(enough, model, 3, by="colour")
    with pytest.raises(BadArgument, match="the token 11"):
        attribute(enough, model, 11)


def test_in_8_bits_the_sum_holds_with_a_row_for_rounding(tmp_path: Path):
    lm = tiny_lm("llama", tmp_path, "int8")
    found = attribute(lm.trace("the cat sat"), lm.decoder, 42, by="head")
    assert float(found.values.sum()) == pytest.approx(found.logit, abs=2e-4 * max(1, abs(found.logit)))


def of_patterns(patterns: list[torch.Tensor], ids: list[list[int]], model: Decoder) -> Trace:
    sites = pattern_sites(model.config)
    return Trace(dict(zip(sites, patterns, strict=True)), Tokens.from_ids(ids), model.config)


def test_head_scores_on_patterns_made_by_hand(model: Decoder):
    t, heads = 6, model.config.n_heads
    eye = torch.eye(t)
    back, induce = torch.zeros(t, t), torch.zeros(t, t)
    back[range(1, t), range(t - 1)] = 1
    back[0, 0] = 1
    induce[range(3), range(3)] = 1
    induce[[3, 4, 5], [1, 2, 3]] = 1  # each token of the second time looks at what followed its first
    first, even = torch.zeros(t, t), torch.ones(t, t).tril() / torch.arange(1, t + 1)[:, None]
    first[:, 0] = 1
    kinds = torch.stack([eye, back, induce, first]).repeat(2, 1, 1)[:heads]
    blocks = [kinds[None], even.expand(1, heads, t, t), first.expand(1, heads, t, t)]
    scores = score_heads(of_patterns(blocks, [[5, 2, 9, 5, 2, 9]], model)).by_name
    assert scores["self"][0, 0] == scores["previous"][0, 1] == scores["first"][0, 3] == 1
    assert scores["induction"][0, 2] == 1 and scores["induction"][0, 0] == 0
    assert scores["first"][2].eq(1).all() and scores["entropy"][0].abs().max() < 1e-6
    rows = torch.arange(2, t + 1, dtype=torch.float32).log()
    torch.testing.assert_close(scores["entropy"][1, 0], rows.mean())
    duplicate = torch.tensor([0, 0, 1 / 4, 1 / 5, 1 / 6]).mean()  # positions 3, 4, 5 have one earlier twin
    torch.testing.assert_close(scores["duplicate"][1, 0], duplicate)
    assert score_heads(of_patterns(blocks, [[5, 2, 9, 5, 2, 8]], model)).by_name.keys() == scores.keys() - {"induction"}


def test_random_tokens_said_twice(model: Decoder):
    tokens = repeated_tokens(model.config, 5, texts=3, seed=7)
    assert tokens.ids.shape == (3, 10) and torch.equal(tokens.ids[:, :5], tokens.ids[:, 5:])
    assert torch.equal(tokens.ids, repeated_tokens(model.config, 5, texts=3, seed=7).ids)
    assert induction_scores(run(model, tokens, pattern_sites(model.config)), 5).shape == (3, model.config.n_heads)
    with pytest.raises(BadArgument, match="length=99"):
        repeated_tokens(model.config, 99)


def test_a_tuned_lens_is_loaded_and_applied(model: Decoder, trace: Trace, tmp_path: Path):
    d, random = model.config.d_model, torch.Generator().manual_seed(0)
    tensors = {}
    for i in range(model.config.n_layers):
        tensors |= {f"{i}.weight": torch.randn(d, d, generator=random), f"{i}.bias": torch.randn(d, generator=random)}
    save_file(tensors, tmp_path / "lens.safetensors")
    torch.save(tensors, tmp_path / "params.pt")
    at = torch.tensor([4, 5])
    for name in ("lens.safetensors", "params.pt"):
        probes = [(w.double(), b.double()) for w, b in load_probes(tmp_path / name, model.config)]
        found = logit_lens(trace, model, at, probes)
        stream = trace["blocks.1.resid_pre"][[0, 1], at]
        read = stream + stream @ tensors["1.weight"].double().T + tensors["1.bias"].double()
        expected = model.unembed(read[:, None], _untapped())[:, 0]
        torch.testing.assert_close(found[1], expected)
        torch.testing.assert_close(found[-1], logit_lens(trace, model, at)[-1])
    save_file({name: value for name, value in tensors.items() if name != "1.bias"}, tmp_path / "short.safetensors")
    with pytest.raises(BadCheckpoint, match=r"no '1.bias' in"):
        load_probes(tmp_path / "short.safetensors", model.config)
    with pytest.raises(
        BadCheckpoint, match=r"found no file .*none.pt; expected a .safetensors file, or one of torch.save; correct"
    ):
        load_probes(tmp_path / "none.pt", model.config)


def _untapped():
    from cutaway.model.tap import untapped

    return untapped


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("by, site", [(by, site) for by, sites in patching.SITES.items() for site in sites])
def test_a_sweep_equals_one_at_a_time_patching(model: Decoder, by: tuple[str, ...], site: str, direction: str):
    block = None if "block" in by else 1
    found = patching.sweep(
        model, CLEAN, CORRUPT, METRIC, by, site=site, direction=direction, block=block, at_once=3  # type: ignore[arg-type]
    )  # fmt: skip
    assert found.axes == by
    given, ran = (CLEAN, CORRUPT) if direction == "denoise" else (CORRUPT, CLEAN)
    source = run(model, given)
    for index in torch.ones(found.values.shape).nonzero().tolist():
        layer = block if block is not None else index[0]
        where = {axis: at for axis, at in zip(by, index, strict=True) if axis != "block"}
        edit = Edit.patch(f"blocks.{layer}.{site}", source, **where)
        with pytest.warns(UserWarning) if _changes_nothing(model, edit, ran) else _silence():
            logits = run(model, ran, "logits", edits=[edit])["logits"][:, -1]
        assert float(found.values[tuple(index)]) == pytest.approx(float(METRIC(logits)[0]), abs=1e-9), index
    of = {"clean": CLEAN, "corrupt": CORRUPT}
    for name, tokens in of.items():
        assert getattr(found, name) == pytest.approx(float(METRIC(run(model, tokens, "logits")["logits"][:, -1])[0]))
    if site == "resid_pre":  # the stream at the first block and the differing position carries the whole text
        assert float(found.scores[0, 2]) == pytest.approx(1.0)


def _changes_nothing(model: Decoder, edit: Edit, tokens: Tokens) -> bool:
    import warnings

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run(model, tokens, "logits", edits=[edit])
    return bool(seen)


def _silence():
    from contextlib import nullcontext

    return nullcontext()


def test_texts_that_cannot_be_swept_are_refused(model: Decoder):
    longer = Tokens.from_ids([[3, 5, 7, 2, 9, 1]])
    with pytest.raises(BadText, match="of the same length"):
        patching.sweep(model, CLEAN, longer, METRIC)
    with pytest.raises(BadArgument, match="the measure is the same"):
        patching.sweep(model, CLEAN, CLEAN, METRIC)
    with pytest.raises(BadArgument, match=r"by=.*love"):
        patching.sweep(model, CLEAN, CORRUPT, METRIC, ("love",))
    with pytest.raises(BadArgument, match=r"site='mlp.post' by block and head; expected one of attn.z, attn.pattern"):
        patching.sweep(model, CLEAN, CORRUPT, METRIC, site="mlp.post")
    with pytest.raises(BadArgument, match="block="):
        patching.sweep(model, CLEAN, CORRUPT, METRIC, ("head", "position"))


def test_ablation_equals_one_head_at_a_time(model: Decoder):
    reference = run(model, TOKENS, "blocks.*.attn.z")
    whole = METRIC(run(model, CLEAN, "logits")["logits"][:, -1])[0]
    for means in (None, reference):
        found = ablation.head_importance(model, CLEAN, METRIC, means)
        for layer in range(model.config.n_layers):
            for head in range(model.config.n_heads):
                site = f"blocks.{layer}.attn.z"
                edit = Edit.zero(site, head=head) if means is None else Edit.mean(site, means, head=head)
                one = METRIC(run(model, CLEAN, "logits", edits=[edit])["logits"][:, -1])[0]
                assert float(found[layer, head]) == pytest.approx(float(one - whole), abs=1e-9)


def test_a_direction_is_the_mean_difference_and_acts_at_every_step(tmp_path: Path):
    lm = tiny_lm("gpt2", tmp_path)
    toward, away, site = lm.tokens(["the cat sat", "the dog"]), lm.tokens(["a mat on", "ran to"]), "blocks.1.resid_post"
    ends = [[lm.trace(text, site)[site][0, -1] for text in texts] for texts in
            (["the cat sat", "the dog"], ["a mat on", "ran to"])]  # fmt: skip
    expected = sum(one - other for one, other in zip(*ends, strict=True)) / 2
    torch.testing.assert_close(direction(lm.decoder, toward, away, site), expected, atol=1e-5, rtol=1e-5)
    edit = steer(lm.decoder, toward, away, site, 3.0)
    out = lm.generate("the cat", sites="*", edits=edit, max_new_tokens=5)
    moved = out.trace[site] - (out.trace["blocks.1.resid_mid"] + out.trace["blocks.1.mlp_out"])
    torch.testing.assert_close(moved, (3 * expected).expand_as(moved), atol=1e-4, rtol=1e-4)
    with pytest.raises(BadArgument, match="2 texts toward and 1 away"):
        direction(lm.decoder, toward, lm.tokens("the"), site)
    with pytest.raises(BadArgument, match="3 sites"):
        direction(lm.decoder, toward, away, "blocks.*.resid_post")


def test_gradients_against_finite_differences(model: Decoder):
    site, epsilon = "blocks.1.resid_pre", 1e-6
    by_position = gradient_times_input(model, CLEAN, METRIC)[0]
    trace = run(model, CLEAN)
    for position in range(5):  # d metric / d scale of the embedding at that position, at scale 1
        name = "embed.projected" if model.config.projected else "embed.token"
        ends = [METRIC(run(model, CLEAN, "logits", edits=[Edit.scale(name, 1 + sign * epsilon, position=position)])
                ["logits"][:, -1])[0] for sign in (1, -1)]  # fmt: skip
        assert float(by_position[position]) == pytest.approx(float((ends[0] - ends[1]) / (2 * epsilon)), abs=1e-5)
    estimate = attribution_patching(model, CLEAN, CORRUPT, METRIC, [site])[site]
    gap = trace[site] - run(model, CORRUPT, site)[site]
    for position in range(5):
        push = epsilon * gap[0, position]
        if gap[0, position].abs().max() < 1e-12:  # before the texts part
            assert abs(float(estimate[position])) < 1e-10
            continue
        ends = [METRIC(run(model, CORRUPT, "logits", edits=[Edit.add(site, sign * push, position=position)])
                ["logits"][:, -1])[0] for sign in (1, -1)]  # fmt: skip
        assert float(estimate[position]) == pytest.approx(float((ends[0] - ends[1]) / (2 * epsilon)), abs=1e-4)


@pytest.mark.real
@pytest.mark.xdist_group("real")
def test_on_the_default_model():
    lm = load(real.file(), device="cpu")
    tokens = repeated_tokens(lm.config, 50, texts=1)
    top = score_heads(lm.trace(tokens, pattern_sites(lm.config))).top("induction")
    assert top[0][2] > 0.7
    clean, corrupt = (
        lm.tokens("John and Mary talked. John gave it to"),
        lm.tokens("John and Mary talked. Mary gave it to"),
    )
    answer = metric.logit_of(int(lm.logits(clean)[0, -1].argmax()))
    found = patching.sweep(lm.decoder, clean, corrupt, answer)
    source = lm.trace(clean)
    for layer, head in ((0, 0), (14, 3), (29, 8)):
        edit = Edit.patch(f"blocks.{layer}.attn.z", source, head=head)
        one = float(answer(lm.trace(corrupt, "logits", edits=edit)["logits"][:, -1])[0])
        assert float(found.values[layer, head]) == pytest.approx(one, abs=0.5)  # a code may fall on either side
