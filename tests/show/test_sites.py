"""The list of a model's sites: each site of each block by its own shape and formula, of every model type."""

import re
from collections import Counter

import pytest

from cutaway.ground.select import select
from cutaway.ground.sites import all_sites
from cutaway.show.sites import finding
from cutaway.weights.families import facts_of
from tests.model_types import OPTIONS, SEEDS, drawn
from tests.tiny import facts


@pytest.mark.parametrize("model_type", OPTIONS)
def test_every_site_of_every_block_stands_in_one_line(model_type: str) -> None:
    for seed in SEEDS:
        config = facts(drawn(model_type, seed))
        lines = str(finding(config)).splitlines()
        assert lines[0].startswith(f"B texts, T positions, S attended to, D {config.d_model}, H {config.n_heads}, ")
        assert max(map(len, lines)) <= 80
        rows = [re.split(r"  +", line) for line in lines[2:] if not line.startswith(" ")]
        listed = Counter(name for label, *_ in rows for name in select(config, label))
        assert listed == Counter(list(all_sites(config)))
        for label, shape, *_ in rows:
            assert {all_sites(config)[name].shape for name in select(config, label)} == {shape}


def test_blocks_that_are_too_many_to_name_are_counted() -> None:
    text = " ".join(str(finding(facts_of({"model_type": "smollm3"}, lambda note: None)[1])).split())
    assert "rotate(attn.q, positions), in 27 of 36 blocks: 0-2,4-6,8-10," in text
    assert "hide(dot(attn.q, shared(attn.k)) / sqrt(d_head)), in 9 of 36 blocks: 3,7,11,15,19,23,27,31,35" in text
    assert "x = resid_post of the last block" in text
