"""The table of weights against an empty decoder of every tiny config, and against the formulas of its sites."""

import re

import pytest
import torch
from torch import nn

from cutaway.ground.layers import all_weights, block_layers, site_weights
from cutaway.ground.sites import all_sites, parents_of
from cutaway.model.decoder import Decoder, Norm
from cutaway.model.sinks import Sinks
from cutaway.weights.families import facts_of
from tests.tiny import CONFIGS

CLASSES = {"linear": nn.Linear, "projection": nn.Linear, "embedding": nn.Embedding, "norm": Norm, "sinks": Sinks}


def empty_decoder(name: str) -> Decoder:
    with torch.device("meta"):
        return Decoder(facts_of(CONFIGS[name].to_dict(), lambda line: None)[1])


@pytest.mark.parametrize("name", CONFIGS)
def test_every_row_of_every_parameter_stands_in_the_table_once(name: str):
    decoder = empty_decoder(name)
    covered: dict[str, list[int]] = {}
    for weight in all_weights(decoder.config).values():
        assert isinstance(decoder.get_submodule(weight.module), CLASSES[weight.kind])
        for parameter in ("weight", "bias") if weight.bias else ("weight",):
            covered.setdefault(f"{weight.module}.{parameter}", []).extend(range(weight.rows.start, weight.rows.stop))
    assert covered == {name: list(range(len(parameter))) for name, parameter in decoder.named_parameters()}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_formula_names_the_weights_that_write_its_site(name: str):
    config = empty_decoder(name).config
    for site, facts in all_sites(config).items():
        weights = site_weights(config, site)
        assert all(weight.reads in [*parents_of(config, site), "ids", "positions"] for weight in weights)
        symbols = {weight.symbol for weight in weights} | {weight.bias for weight in weights} - {""}
        assert symbols == set(re.findall(r"\b(?:[Wb]_\w+|[wb]|sinks)\b", facts.formula)), site


def test_a_blocks_modules_stand_in_the_order_of_the_forward_pass():
    attention, mlp = ["attn.qkv", "attn.out"], ["mlp.up", "mlp.down"]
    assert list(block_layers(empty_decoder("llama").config)) == ["ln1", *attention, "ln2", *mlp]
    assert list(block_layers(empty_decoder("opt-post-norm").config)) == [*attention, "ln1", *mlp, "ln2"]
