"""Every site of the vocabulary is emitted exactly once, in order, and equals its formula over its parents."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from cutaway.explain.formula import recompute
from cutaway.ground.sites import all_sites
from cutaway.text.pieces import Tokens
from cutaway.trace.pass_recorder import Recorder
from tests.tiny import CONFIGS, decoder

MASK = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1] * 7])
TOKENS = Tokens.from_ids([[3, 5, 7, 2, 9, 0, 0], [8, 3, 3, 6, 4, 9, 5]], MASK)
AXES = {"B": 2, "T": 7, "S": 7, "1": 1}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_site_is_emitted_once_and_equals_its_formula(name: str, tmp_path: Path):
    model = decoder(name, tmp_path, torch.float64)
    config = model.config
    table = all_sites(config)
    order: list[str] = []
    recorder = Recorder(table)

    def tap(name: str, value: torch.Tensor) -> torch.Tensor:
        order.append(name)
        return recorder(name, value)

    for method in ("wants", "changes", "buffers"):
        setattr(tap, method, getattr(recorder, method))
    with torch.inference_mode():
        logits = model(TOKENS, tap=tap)
        plain = model(TOKENS)
    assert Counter(order) == Counter(list(table)), "each site once, and no other"
    assert order == list(table), "in the order of ground/sites.py"
    sizes = AXES | {
        "D": config.d_model, "H": config.n_heads, "G": config.n_kv_heads, "K": config.d_head,
        "F": config.d_mlp, "X": config.n_experts, "V": config.vocab_size, "E": config.d_embed,
    }  # fmt: skip
    values = {site: parts[0] for site, parts in recorder.parts.items()}
    for site, facts in table.items():
        assert list(values[site].shape) == [sizes[axis] for axis in facts.shape.split()], site
        again = recompute(site, values, TOKENS, model)
        torch.testing.assert_close(values[site], again, atol=1e-10, rtol=1e-10, msg=lambda m, s=site: f"{s}: {m}")
    torch.testing.assert_close(logits, plain, atol=1e-10, rtol=1e-10)  # watched or not, the same numbers


def test_a_wrong_formula_would_show(tmp_path: Path):
    model = decoder("opt", tmp_path, torch.float64)
    recorder = Recorder(all_sites(model.config))
    with torch.inference_mode():
        model(TOKENS, tap=recorder)
    values = {site: parts[0] for site, parts in recorder.parts.items()}
    values["blocks.1.attn_out"] = values["blocks.1.attn_out"] + 1e-6
    again = recompute("blocks.1.resid_mid", values, TOKENS, model)
    assert (again - values["blocks.1.resid_mid"]).abs().max() > 9e-7
