"""Every family and option against transformers, in float32, two-sided: what it must equal, and that a change shows."""

from pathlib import Path

import pytest
import torch

from cutaway.ground.sites import block_exit
from cutaway.model.decoder import Decoder
from cutaway.text.pieces import Tokens
from cutaway.trace.pass_recorder import Recorder
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.load import load_decoder
from tests.tiny import CONFIGS, block_outputs, saved

IDS = torch.tensor([[3, 5, 7, 2, 9, 4, 10, 1, 6], [8, 3, 3, 6, 4, 9, 5, 2, 7]])


def ours(folder: Path) -> Decoder:
    return load_decoder(open_checkpoint(folder), dtype=torch.float32, device="cpu")


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_every_residual_equal_transformers(name: str, tmp_path: Path):
    folder, theirs = saved(name, tmp_path)
    decoder = ours(folder)
    exits = [block_exit(decoder.config, i) for i in range(decoder.config.n_layers)]
    recorder = Recorder(exits)
    with torch.inference_mode(), block_outputs(theirs) as residuals:
        logits = decoder(Tokens.from_ids(IDS), tap=recorder)
        expected = theirs(IDS).logits
    assert (logits - expected).abs().max() < 1e-4
    for site, residual in zip(exits, residuals, strict=True):
        assert (recorder.parts[site][0] - residual).abs().max() < 1e-4, site
    assert logits.std() > 0.1  # not all alike: a lost weight would show


@pytest.mark.parametrize("form", ["bin", "safetensors-shards", "bin-shards"])
def test_every_file_form_gives_the_same_weights(form: str, tmp_path: Path):
    folder, theirs = saved("llama-gqa", tmp_path / "plain")
    (other := tmp_path / form).mkdir()
    (other / "config.json").write_text((folder / "config.json").read_text())
    if form == "safetensors-shards":
        theirs.save_pretrained(other, max_shard_size="10KB")
        assert len(list(other.glob("*.safetensors"))) > 1
    elif form == "bin":
        torch.save(theirs.state_dict(), other / "pytorch_model.bin")
    else:
        import json

        state, names = theirs.state_dict(), {}
        for i, keys in enumerate([list(state)[:7], list(state)[7:]]):
            torch.save({k: state[k] for k in keys}, other / f"pytorch_model-{i}.bin")
            names |= dict.fromkeys(keys, f"pytorch_model-{i}.bin")
        (other / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    one, two = ours(folder).state_dict(), ours(other).state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
