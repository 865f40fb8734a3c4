"""A view: every value that it computes again has the bits of the trace, edits and padding included; what it keeps."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway import Edit
from cutaway.analysis.heads import Roles, earlier_same, heads, induction_scores, repeated_tokens, score_heads
from cutaway.ground.errors import BadArgument
from cutaway.lm import LM, load
from cutaway.model.decoder import Decoder
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run
from cutaway.trace.trace import Trace
from cutaway.trace.view import thumbnail, view, view_plan
from tests import tiny

PADDED = Tokens.from_ids([[3, 5, 7, 2, 9], [4, 4, 8, 0, 0]], [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
EDITS = [
    Edit.zero("blocks.0.attn.z", head=1, position=2), Edit.add("blocks.1.resid_pre", 0.5, position=1),
    Edit.scale("blocks.1.mlp.post", 2.0), Edit.set("blocks.2.attn.pattern", 0.25, head=0, position=2, source=1),
    Edit.scale("blocks.0.resid_post", 1.5, position=-1), Edit.add("logits", 1.0, position=0),
]  # fmt: skip


@pytest.fixture(
    scope="module", params=["llama-gqa", "gpt2", "opt", "opt-350m-like", "opt-no-final-norm", "gpt_oss-drawn"]
)
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return tiny.decoder(request.param, tmp_path_factory.mktemp("model"), quantize="int8")


@pytest.mark.parametrize("edits", [[], EDITS], ids=["as it is", "edited"])
def test_every_value_has_the_bits_of_the_trace(decoder: Decoder, edits: list[Edit]):
    trace, seen = run(decoder, PADDED, edits=edits), view(decoder, PADDED, edits=edits)
    assert [site for site in trace if not torch.equal(seen[site], trace[site])] == []
    some = seen.read(["attn.z", "blocks.1-2.mlp.post", "logits", "embed.token", "resid_pre", "attn.pattern"])
    assert all(torch.equal(value, trace[site]) for site, value in some.items()) and "blocks.0.attn.z" in some
    exact = {"rtol": 0, "atol": 0} if decoder.unembed.project_out is None else {}  # project_out is in full precision
    torch.testing.assert_close(seen.logits_at(2), trace["logits"][:, 2], **exact)
    torch.testing.assert_close(seen.logits_between(1, 4), trace["logits"][:, 1:4], **exact)
    for layer in range(decoder.config.n_layers):
        for kind in ("attn_out", "mlp_out"):
            assert torch.equal(seen.sizes[kind][layer], trace[kind, layer].norm(dim=-1))
        for head in range(decoder.config.n_heads):
            found = seen.head(layer, head)
            for name, value in found._asdict().items():
                of = trace[f"attn.{name}", layer, head]
                assert torch.equal(value, of), (layer, head, name)
    with pytest.raises(BadArgument, match="head 4"):
        seen.head(0, 4)


def test_in_full_precision_and_in_float64(tmp_path: Path):
    for dtype in (torch.float32, torch.float64):
        model = tiny.decoder("gpt2", tmp_path / str(dtype), dtype)
        trace, seen = run(model, PADDED), view(model, PADDED)
        assert [site for site in trace if not torch.equal(seen[site], trace[site])] == []
        assert torch.equal(seen.head(1, 2).pattern, trace["attn.pattern", 1, 2])


def test_thumbnails_are_the_largest_weights():
    pattern = torch.rand(1, 2, 130, 130).tril().softmax(-1) ** 0.1
    cells = thumbnail(pattern)
    for i, j in ((0, 0), (63, 0), (40, 12)):
        rows, columns = (slice(n * 130 // 64, (n + 1) * 130 // 64) for n in (i, j))
        assert int(cells[0, 1, i, j]) == round(float(pattern[0, 1, rows, columns].max()) * 255)
    assert cells.shape == (1, 2, 64, 64) and cells.dtype is torch.uint8
    assert torch.equal(thumbnail(pattern[..., :9, :9]), (pattern[..., :9, :9] * 255).round().byte())


def test_the_roles_are_the_scores_of_the_heads(decoder: Decoder):
    lm_scores = heads(decoder, Tokens.from_ids([[3, 5, 7, 3, 5, 7]])).by_name
    tokens = Tokens.from_ids([[3, 5, 7, 3, 5, 7]])
    roles = roles_of(decoder, tokens)
    for name, score in lm_scores.items():
        torch.testing.assert_close(roles[name][:, 0], score, msg=name)
    trace = run(decoder, tokens)
    torch.testing.assert_close(roles["induction"][:, 0], induction_scores(trace, 3))
    natural = Tokens.from_ids([[3, 5, 7, 9, 5, 2]])  # only position 4 repeats a token, whose first is followed by 2
    pattern = run(decoder, natural)["attn.pattern", 1]
    torch.testing.assert_close(roles_of(decoder, natural)["induction"][1, 0], pattern[0, :, 4, 2])
    assert roles_of(decoder, Tokens.from_ids([[3, 5]]))["induction"].isnan().all()
    again = score_heads(run(decoder, PADDED)).by_name["previous"]
    both = roles_of(decoder, PADDED)["previous"]
    torch.testing.assert_close((both[:, 0] * 4 + both[:, 1] * 2) / 6, again)


@pytest.mark.parametrize("ids", [[*range(10), 5], [3] * 12], ids=["one twin", "all the same"])
def test_the_weight_on_earlier_twins_is_their_sum(decoder: Decoder, ids: list[int]):
    tokens = Tokens.from_ids([ids])
    roles, same_TS = roles_of(decoder, tokens), earlier_same(tokens)[0]
    after_TS = torch.cat((torch.zeros_like(same_TS[:, :1]), same_TS[:, :-1]), -1).tril(-1)
    pattern_HTS = run(decoder, tokens)["attn.pattern", 1][0]
    duplicate, induction = ((pattern_HTS * each).sum(-1) for each in (same_TS, after_TS))
    torch.testing.assert_close(roles["duplicate"][1, 0], duplicate[:, 1:].mean(-1))
    torch.testing.assert_close(roles["induction"][1, 0], induction[:, after_TS.any(-1)].mean(-1), equal_nan=True)


def roles_of(decoder: Decoder, tokens: Tokens) -> dict[str, torch.Tensor]:
    roles = Roles(tokens)
    view(decoder, tokens, watch=roles)
    return roles.by_name()


def test_what_it_keeps_is_what_was_planned_and_little(lm: LM):
    seen = lm.view("the cat sat on the mat")
    plan = lm.plan("the cat sat on the mat", view=True)
    assert plan.bytes == seen.nbytes + seen.thumbnails.nbytes == seen.plan.bytes
    with pytest.raises(BadArgument, match="the budget"):
        lm.view("the cat", budget=10)
    asked: tuple[dict[str, Any], ...] = ({"sites": ["logits"]}, {"positions": [1]}, {"max_new_tokens": 3})
    for each in asked:
        with pytest.raises(BadArgument, match="view=True beside arguments of a trace"):
            lm.plan("the cat", view=True, **each)
    trace = lm.trace("the cat sat on the mat")
    assert str(lm.why(seen, "blocks.1.attn.z", 0, 2, 1, 3)) == str(lm.why(trace, "blocks.1.attn.z", 0, 2, 1, 3))
    assert "any value" not in repr(seen) and "every value can be read" in repr(seen)
    again = pickle.loads(pickle.dumps(seen))
    assert type(again) is Trace and list(again) == list(seen) and "logits" not in again and "logits" in seen


def test_a_model_that_was_changed_since_is_refused(lm: LM):
    seen = lm.view("the cat sat")
    with lm.edited({"blocks.1.W_O": lm.weights["blocks.1.W_O"] * 2}), pytest.raises(BadArgument, match="than in the p"):
        seen["blocks.1.mlp.post"]
    seen["blocks.1.mlp.post"]


@pytest.mark.real
def test_a_thousand_tokens_of_270_heads_stay_under_120_mb():
    lm = load()
    ids = repeated_tokens(lm.config, 500, 1).ids
    rows = view_plan(lm.decoder, Tokens.from_ids(ids)).rows
    assert sum(row.bytes for row in rows if ".attn." in row.site) < 120e6
