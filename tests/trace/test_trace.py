"""Reading a trace: by full name, by name and block and head, stacked over the blocks; and what cannot be read, said."""

from typing import Any

import pytest
import torch

from cutaway import Edit
from cutaway.ground.errors import BadArgument
from cutaway.lm import LM
from cutaway.text.pieces import Tokens

TEXTS = ["the cat sat on", "the dog"]


def test_a_value_by_its_name_its_block_and_its_head(lm: LM):
    trace, heads = lm.trace(TEXTS), lm.config.n_heads
    assert trace["resid_post", 1] is trace["blocks.1.resid_post"] is trace["hook_resid_post", 1]
    assert torch.equal(trace["resid_post", -1], trace[f"blocks.{lm.config.n_layers - 1}.resid_post"])
    assert torch.equal(trace["attn.pattern", 0, heads - 1], trace["blocks.0.attn.pattern"][:, heads - 1])
    assert torch.equal(trace["attn.z", 0, -1], trace["blocks.0.attn.z"][:, :, -1])
    assert torch.equal(trace["attn.k", 0, 0], trace["blocks.0.attn.k"][:, :, 0])
    assert ("attn.z", 0) in trace and "resid_post" not in trace and ("attn.z", 9) not in trace and 3 not in trace
    assert (
        trace.get(("attn.z", 9)) is trace.get("resid_post") is None and trace.get(("attn.z", 0)) is trace["attn.z", 0]
    )


def test_ids_have_their_pieces(lm: LM):
    tokens = lm.tokenize(TEXTS)
    bare = Tokens.from_ids(tokens.ids, tokens.mask)
    expected = [[(p.id, p.text, p.padding) for p in row] for row in tokens.pieces or ()]
    out = lm.generate(bare, max_new_tokens=3, sites="logits")
    assert out.trace.tokens.pieces[0][-2].marked == lm.token_text(out.new_ids[0][0])
    for found in (lm.trace(bare, "logits").tokens, out.prompt):
        assert [[(p.id, p.text, p.padding) for p in row] for row in found.pieces or ()] == expected


def test_a_stack_has_the_blocks_first(lm: LM):
    trace, layers = lm.trace(TEXTS), lm.config.n_layers
    stack = trace.stack("resid_post")
    assert stack.shape == (layers, *trace["resid_post", 0].shape)
    assert all(torch.equal(stack[layer], trace["resid_post", layer]) for layer in range(layers))
    assert torch.equal(trace.stack("blocks.0,2.attn.z"), torch.stack([trace["attn.z", 0], trace["attn.z", 2]]))
    some = lm.trace(TEXTS, ["blocks.1.resid_post", "ln1.out"])
    with pytest.raises(BadArgument, match=f"{layers - 1} of the {layers} values of 'resid_post' missing .*blocks.0"):
        some.stack("resid_post")
    with pytest.raises(BadArgument, match="others of other shapes"):
        trace.stack("attn.*")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (
            "resid_post",
            r"'resid_post', which every block has; .* name blocks.2.resid_post, or in Python \[\"resid_post\", 2\]",
        ),
        (("resid_post", 9), "'resid_post' of block 9; expected a block of 0 to 2"),
        (("resid_post", "0"), "of block '0'"),
        (("blocks.1.resid_post", 1), "the block 1 for 'blocks.1.resid_post'; .* without its block"),
        (("logits", 1), "expected 'logits' alone"),
        (("resid_post", 1, 0), r"head 0 of blocks.1.resid_post \[B T D\]; expected a site with heads"),
        (("attn.z", 1, 40), "head 40 of blocks.1.attn.z"),
        (("attn.z", 1, 0, 0), "expected a site, its block and a head"),
        (("resid_pst", 1), "no site 'resid_pst'; .* resid_post"),
        ("pattern", "such as attn.pattern"),
        (3, "the site 3"),
        ((), "the site"),
        ("blocks.0.mlp_out", "no 'blocks.0.mlp_out' in this trace"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(key: Any, words: str, lm: LM):
    trace = lm.trace(TEXTS, ["resid_post", "attn.z", "logits"])
    with pytest.raises(BadArgument, match=words):
        trace[key]


def test_an_edit_takes_a_bare_name_and_a_block(lm: LM):
    other = lm.trace(TEXTS[1])
    bare = lm.trace(TEXTS[1], "logits", edits=[Edit.scale("attn.z", 0.5)])["logits"]
    assert torch.equal(bare, lm.trace(TEXTS[1], "logits", edits=[Edit.scale("blocks.*.attn.z", 0.5)])["logits"])
    named = Edit.patch("attn.z", other, block=1, head=0)
    assert torch.equal(named.value, Edit.patch("blocks.1.attn.z", other, head=0).value)  # type: ignore[arg-type]
    with pytest.raises(BadArgument, match=r"3 sites, blocks.0.attn.z to blocks.2.attn.z, for one value of a trace"):
        Edit.patch("attn.z", other)
    with pytest.raises(BadArgument, match=r"such as attn.z"):
        lm.trace(TEXTS, edits=[Edit.zero("z")])
