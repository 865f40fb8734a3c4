"""What users of such tools report, each as a test that names the complaint and shows that it cannot be made here."""

import gc
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from cutaway import Edit
from cutaway.ground.errors import BadArgument
from cutaway.ground.sites import all_sites
from cutaway.lm import LM, load
from tests.tiny import CONFIGS, saved, tiny_lm

TEXTS = ["the cat sat on", "the dog"]


@pytest.mark.parametrize("name", ["opt", "opt-350m-like", "gpt2", "llama"])
def test_numbers_differ_from_hugging_face_after_helpful_weight_processing(name: str, tmp_path: Path):
    assert name in CONFIGS
    folder, _ = saved(name, tmp_path)
    ours = load(folder, quantize=None, device="cpu").logits(torch.tensor([[3, 5, 7, 2, 9]]))
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([[3, 5, 7, 2, 9]])).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)  # and the log-probabilities too, no centering


def test_left_padding_shifts_positions_and_moves_the_next_token_distribution(lm: LM):
    alone = lm.logits(TEXTS[1])[0, -1].log_softmax(-1)
    tokens = lm.tokenize(TEXTS, padding_side="left")
    assert tokens.positions[1].tolist()[-int(tokens.lengths[1]) :] == list(range(int(tokens.lengths[1])))
    torch.testing.assert_close(lm.logits(tokens)[1, -1].log_softmax(-1), alone, atol=1e-4, rtol=1e-4)


def test_generate_ignores_the_pad_mask(lm: LM):
    alone = lm.generate(TEXTS[1], max_new_tokens=6).new_ids[0]
    for side in ("left", "right"):
        assert lm.generate(lm.tokenize(TEXTS, padding_side=side), max_new_tokens=6).new_ids[1] == alone  # type: ignore[arg-type]


def test_a_batch_differs_from_its_single_rows(lm: LM):
    together = lm.trace(TEXTS, "blocks.*.resid_post")
    for row, text in enumerate(TEXTS):
        for site, alone in lm.trace(text, "blocks.*.resid_post").items():
            torch.testing.assert_close(together[site][row, : alone.shape[1]], alone[0], atol=1e-4, rtol=1e-4)


def test_a_hook_or_an_edit_that_silently_does_nothing(lm: LM):
    with pytest.raises(BadArgument, match="no site"):
        lm.trace(TEXTS, edits=Edit.zero("blocks.0.attn.z_out"))
    with pytest.raises(BadArgument, match="never reached"):
        lm.trace(TEXTS, "embed.token", edits=Edit.zero("blocks.2.mlp_out"))
    with pytest.warns(UserWarning, match="changed nothing"):
        lm.trace(TEXTS, edits=Edit.add("blocks.0.mlp_out", 0.0))
    plain = lm.logits(TEXTS)
    for site in ("ln1.scale", "ln1.normalized", "attn.scores", "attn.pattern", "attn.z"):  # what others ignore
        edited = lm.trace(TEXTS, edits=Edit.scale(f"blocks.1.{site}", 3.0, position=-1))["logits"]
        assert not torch.allclose(edited, plain), site
    assert lm.generate(TEXTS[0], edits=Edit.set("logits", 1e4, neuron=7), max_new_tokens=1).new_ids == ((7,),)


def test_an_attn_out_that_is_not_what_is_added_to_the_residual_stream(lm: LM):
    trace = lm.trace(TEXTS)
    for i in range(lm.config.n_layers):
        after = trace[f"blocks.{i}.resid_post"] - trace[f"blocks.{i}.mlp_out"]  # in a parallel block
        after = after if lm.config.parallel else trace[f"blocks.{i}.resid_mid"]
        added = after - trace[f"blocks.{i}.resid_pre"]
        torch.testing.assert_close(added, trace[f"blocks.{i}.attn_out"], atol=1e-5, rtol=1e-4)


def test_opts_mlp_sites_never_fire(tmp_path: Path):
    lm = tiny_lm("opt", tmp_path)
    trace = lm.trace(TEXTS)
    for i in range(lm.config.n_layers):
        assert torch.equal(trace[f"blocks.{i}.mlp.post"], trace[f"blocks.{i}.mlp.pre"].relu())
        assert trace[f"blocks.{i}.mlp_out"].any()
        assert not torch.equal(lm.trace(TEXTS, edits=Edit.zero(f"blocks.{i}.mlp.post"))["logits"], trace["logits"])


def test_activations_of_generated_tokens_need_a_second_pass(lm: LM):
    out = lm.generate(TEXTS[0], sites="blocks.1.attn.z", max_new_tokens=5)
    length = int(lm.tokens(TEXTS[0]).lengths[0])
    assert out.trace["blocks.1.attn.z"].shape[1] == length + len(out.new_ids[0]) - 1
    again = lm.trace(out.trace.tokens, "blocks.1.attn.z")["blocks.1.attn.z"]
    torch.testing.assert_close(out.trace["blocks.1.attn.z"], again, atol=1e-5, rtol=1e-4)


def test_gradients_on_by_default_memory_grows_by_gigabytes(lm: LM):
    assert not any(value.requires_grad or value.grad_fn for value in lm.trace(TEXTS).values())
    for _ in range(20):
        lm.trace(TEXTS)
    gc.collect()
    before = sum(1 for thing in gc.get_objects() if type(thing) is torch.Tensor)
    for _ in range(50):
        lm.trace(TEXTS)
    gc.collect()
    assert sum(1 for thing in gc.get_objects() if type(thing) is torch.Tensor) <= before


def test_a_second_load_leaks_the_first(tmp_path: Path):
    from weakref import ref

    lm = tiny_lm("gpt2", tmp_path)
    trace = lm.trace(TEXTS)
    first = ref(lm.decoder)
    lm = load(tmp_path, device="cpu")
    gc.collect()
    assert first() is None and trace["logits"] is not None  # a trace outlives its model and holds no reference to it


def test_caching_everything_takes_far_more_than_it_would_need(lm: LM):
    trace = lm.trace(TEXTS)
    assert lm.plan(TEXTS).bytes == trace.nbytes == sum(value.nbytes for value in trace.values())
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in trace.values()}
    assert sum(storages.values()) == trace.nbytes  # no value holds on to a larger one


def test_8_bit_weights_cast_to_uint8_as_if_they_were_activations(tmp_path: Path):
    trace = tiny_lm("llama", tmp_path, "int8").trace(TEXTS)
    assert {value.dtype for value in trace.values()} == {torch.float32}
    half = load(tmp_path, device="cpu", dtype="bfloat16").trace(TEXTS)
    assert {value.dtype for name, value in half.items() if not name.endswith("scale")} == {torch.bfloat16}


def test_top_k_and_top_p_exclusive_where_transformers_applies_both(lm: LM):
    step = lm.generate(TEXTS[0], max_new_tokens=1, do_sample=True, seed=0, top_k=4, top_p=0.9).steps[0]
    left = step.stages()[-1][1].isfinite().sum()
    only_k = lm.generate(TEXTS[0], max_new_tokens=1, do_sample=True, seed=0, top_k=4).steps[0]
    assert [name for name, _ in step.stages()] != [name for name, _ in only_k.stages()]
    assert left <= 4 == only_k.stages()[-1][1].isfinite().sum()


def test_double_or_hidden_bos(lm: LM):
    tokens = lm.tokenize(TEXTS[0])
    assert tokens.pieces is not None
    assert tokens.ids[0].tolist() == [piece.id for piece in tokens.pieces[0]]  # what runs is what is shown
    assert torch.equal(lm.trace(TEXTS[0], "embed.token").tokens.ids, tokens.ids)
    assert sum(piece.special for piece in tokens.pieces[0]) <= 1


@pytest.mark.usefixtures("no_network")
def test_local_folders_still_call_the_hub(tmp_path: Path):
    tiny_lm("opt", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path, device="cpu").generate(TEXTS, max_new_tokens=2)


def test_every_site_is_there_for_every_family(lm: LM):
    assert list(lm.trace(TEXTS)) == list(all_sites(lm.config))
