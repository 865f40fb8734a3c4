"""Choosing sites by pattern: names in the order of the pass, and a sentence for a pattern that matches none."""

from typing import Any

import pytest

from cutaway.ground.errors import BadArgument
from cutaway.ground.select import Selection, select
from cutaway.ground.sites import all_sites
from tests.tiny import facts, opt

CONFIG = facts(opt())


@pytest.mark.parametrize(
    ("sites", "chosen"),
    [
        ("blocks.1-2.resid_post", ["blocks.1.resid_post", "blocks.2.resid_post"]),
        (["logits", "blocks.*.attn.pattern"], [*(f"blocks.{i}.attn.pattern" for i in range(3)), "logits"]),
        ("blocks.0.attn.hook_z", ["blocks.0.attn.z"]),  # as TransformerLens spells it
        (lambda name: name.endswith("mlp_out"), [f"blocks.{i}.mlp_out" for i in range(3)]),
        ("*", list(all_sites(CONFIG))),
        ("resid_post", [f"blocks.{i}.resid_post" for i in range(3)]),
        (["ln_final.out", "hook_resid_pre"], [*(f"blocks.{i}.resid_pre" for i in range(3)), "ln_final.out"]),
        ("blocks.0,2.attn.z", ["blocks.0.attn.z", "blocks.2.attn.z"]),
        ("blocks.0-1,2.mlp_out", [f"blocks.{i}.mlp_out" for i in range(3)]),
        ("blocks.1-9.mlp_out", ["blocks.1.mlp_out", "blocks.2.mlp_out"]),
        ([], []),
    ],
)
def test_a_selection_is_in_the_order_of_the_pass(sites: Selection, chosen: list[str]):
    assert select(CONFIG, sites) == chosen


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("blocks.0.attn.patern", "no site 'blocks.0.attn.patern'; expected a site .*blocks.0.attn.pattern"),
        (["logits", "blocks.9.attn_out"], "no site 'blocks.9.attn_out'"),
        ("z", "no site 'z'; .* such as attn.z"),  # no aliases, but the nearest name
        ("scale", "such as ln1.scale, ln2.scale, ln_final.scale"),
        ("blocks.0,7.attn.z", "no site 'blocks.0,7.attn.z'; expected blocks of 0 to 2, not 7"),
        (3, "sites=3; expected a pattern"),
        (["logits", 3], "sites="),
        ("blocks.2-1.attn_out", "blocks 2 to 1 .*; expected the lower first"),
        ("", "no site ''"),
    ],
)
def test_a_pattern_without_a_site_is_one_sentence(wrong: Any, words: str):
    with pytest.raises(BadArgument, match=words):
        select(CONFIG, wrong)
