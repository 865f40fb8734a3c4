"""Neurons, the lens over positions, the cone of a change, a row of attention: each against the trace."""

import pytest
import torch

from cutaway import Edit
from cutaway.analysis.cone import cone
from cutaway.analysis.derived import matrix, neuron_outputs
from cutaway.analysis.logit_lens import lens_grid, stream_sites
from cutaway.analysis.neurons import sites, strongest
from cutaway.explain.attention_row import attention_row
from cutaway.ground.errors import BadArgument
from cutaway.lm import LM
from tests.analysis.by_hand import unembedded

TEXT = "the cat sat on the mat"


def test_the_strongest_neurons_are_those_that_add_most(lm: LM):
    trace, decoder, config = lm.trace(TEXT), lm.decoder, lm.config
    found = strongest(lm.trace(TEXT, sites(1, config.gated)), decoder, 1, 3, top=4)
    outputs_FD = neuron_outputs(trace, decoder, 1, range(config.d_mlp))[0, 3]
    sizes_F = outputs_FD.norm(dim=-1)
    assert [each.neuron for each in found] == sizes_F.topk(4).indices.tolist()
    for each in found:
        assert each.size == pytest.approx(float(sizes_F[each.neuron]), rel=1e-6)
        assert each.post == float(trace["blocks.1.mlp.post"][0, 3, each.neuron])
        assert each.pre == float(trace["blocks.1.mlp.pre"][0, 3, each.neuron])
        assert (each.pre_linear is None) is not config.gated
        # promoted: unembed the neuron's own output without the norm's divisor; the direction's length is the weights'
        direction_D = outputs_FD[each.neuron] / abs(each.post)
        logits_V = unembedded(lm, direction_D)
        best = logits_V.topk(5)
        assert [id for id, _ in each.promotes] == best.indices.tolist()
        torch.testing.assert_close([value for _, value in each.promotes], best.values.tolist(), rtol=1e-4, atol=1e-5)
        assert each.suppresses[0][0] == int(logits_V.argmin())
        row_D = matrix(decoder, f"blocks.1.{'W_gate' if config.gated else 'W_up'}")[each.neuron]
        project = decoder.embed.project_in
        table_VD = decoder.embed.token.weight if project is None else decoder.embed.token.weight @ project.weight.T
        assert each.reads[0][0] == int((table_VD @ row_D).argmax())


def test_the_lens_over_positions_is_the_lens_at_each(int8: LM):
    seen = int8.view(TEXT)
    grid = lens_grid(seen, int8.decoder, range(1, 4), top=3)
    assert grid.ids.shape == (int8.config.n_layers + 1, 3) and grid.top_ids.shape == (3, 3)
    for column, position in enumerate(range(1, 4)):
        alone = int8.lens(TEXT, position=position, top=1).lens
        assert grid.ids[:, column].tolist() == alone.ids[:, 0].tolist()
        torch.testing.assert_close(grid.probability[:, column], alone.probability[:, 0], rtol=1e-3, atol=1e-6)
    probs = seen["logits"][0, 1:4].softmax(-1).topk(3)
    assert torch.equal(grid.top_ids, probs.indices)
    torch.testing.assert_close(grid.top_probability, probs.values)


def test_the_last_row_of_the_lens_is_the_model_s_own_answer_edits_included(int8: LM):
    last = int(int8.trace(TEXT)["logits"][0, 2].argmin())
    late = [name for name in int8.sites if name.startswith("ln_final")][-1:]
    for edit in [Edit.add("logits", 100.0, neuron=last), *(Edit.scale(name, -1.0) for name in late)]:
        trace = int8.trace(TEXT, edits=[edit])
        for given in (int8.view(TEXT, edits=[edit]), trace):
            grid = lens_grid(given, int8.decoder, range(1, 4), top=1)
            assert torch.equal(grid.ids[-1], trace["logits"][0, 1:4].argmax(-1))
            assert not torch.equal(grid.ids[-1], lens_grid(int8.view(TEXT), int8.decoder, range(1, 4)).ids[-1])


def test_the_cone_is_zero_before_a_change_and_measured_after_it(lm: LM):
    base = lm.view(TEXT)
    changed = lm.view(TEXT, edits=Edit.scale("blocks.1.mlp_out", 2.0, position=3))
    reach = cone(changed, base)[:, 0]
    assert (
        (reach[:2] == 0).all() and (reach[:, :3] == 0).all() and (reach[2:, 3] > 0).all() and (reach[3, 4:] > 0).all()
    )
    one, other = (view[stream_sites(lm.config)[3]][0, 4] for view in (changed, base))
    torch.testing.assert_close(reach[3, 4], (one - other).norm() / other.norm())
    zeroed = lm.view(TEXT, edits=Edit.zero("blocks.0.resid_pre", position=2))
    assert cone(changed, zeroed)[0, 0, 2].isinf() and cone(zeroed, zeroed)[0, 0, 2].isnan()
    with pytest.raises(BadArgument, match=r"positions None and \(1,\)"):
        cone(base, lm.trace(TEXT, stream_sites(lm.config), positions=[1]))


def test_a_row_of_attention_goes_from_the_dots_to_the_mix(lm: LM):
    trace, seen = lm.trace(TEXT), lm.view(TEXT)
    row = attention_row(seen, 1, 3, 4)
    assert torch.equal(row.pattern, trace["attn.pattern", 1, 3][0, 4]) and torch.equal(
        row.z, trace["attn.z", 1, 3][0, 4]
    )
    assert torch.equal(row.v, trace["attn.v", 1, row.kv_head][0]) and row.kv_head == 3 * lm.config.n_kv_heads // 4
    torch.testing.assert_close(row.scaled[:5], row.scores[:5])
    assert torch.equal(row.scaled, row.dots * lm.config.d_head**-0.5)
    assert (row.scores[5:] == -torch.inf).all()
    torch.testing.assert_close(row.pattern @ row.v, row.z)
