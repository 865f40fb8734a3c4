"""Every architecture that llama.cpp writes among our model types: its GGUF gives the facts and the logits of the model
that it was written from."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway.ground.errors import CutawayError
from cutaway.lm import load
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.files.gguf_architectures import ARCHITECTURES
from cutaway.weights.load import load_decoder
from cutaway.weights.save import save
from tests.model_types import OPTIONS, drawn
from tests.tiny import batch, build
from tests.weights.gguf_converted import SAID, architecture, converted

SEEDS = range(4)
ROWS = [[3, 5, 7, 2, 9, 4, 10, 1, 6], [8, 3, 3, 6, 4]]


def test_every_architecture_with_a_table_is_written_here() -> None:
    assert set(map(architecture, SAID)) == set(ARCHITECTURES)
    assert set(OPTIONS) - set(SAID) == {
        "opt",
        "gptj",
        "codegen",
        "gpt_neo",
    }  # llama.cpp's converter does not write these


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("model_type", SAID)
def test_a_gguf_has_the_facts_and_the_logits_of_the_model(model_type: str, seed: int, tmp_path: Path) -> None:
    choose = random.Random(f"gguf {model_type} {seed}")
    said = {name: choose.choice(values) for name, values in SAID[model_type].items()}
    theirs = build(drawn(model_type, seed, **said), seed, 0.15, "eager")
    theirs.save_pretrained(tmp_path / "folder")
    folder = open_checkpoint(tmp_path / "folder")
    file = open_checkpoint(converted(theirs, tmp_path / "m.gguf"))
    assert file.facts == folder.facts
    assert not [line for line in file.notes if "also says" in line]
    tokens = batch(*ROWS, side="right")
    ours = [load_decoder(checkpoint, dtype=torch.float32, device="cpu") for checkpoint in (folder, file)]
    with torch.inference_mode():
        expected, logits = (decoder(tokens) for decoder in ours)
    assert (logits - expected)[tokens.mask.bool()].abs().max() < 1e-5 and expected.std() > 0.01


def test_the_largest_gemma_2_scales_its_scores_by_the_width(tmp_path: Path) -> None:
    """llama.cpp knows it by its 46 layers: no key says so."""
    said = {name: values[0] for name, values in SAID["gemma2"].items()}
    theirs = build(drawn("gemma2", 0, **said | {"num_hidden_layers": 46, "head_dim": 16, "query_pre_attn_scalar": 8}))
    assert open_checkpoint(converted(theirs, tmp_path / "m.gguf")).facts.attn_scale == 8**-0.5


@pytest.mark.parametrize("model_type", ["gpt_neox", "falcon", "phi3", "stablelm", "olmo"])
def test_codes_of_a_q8_0_file_are_its_own(model_type: str, tmp_path: Path) -> None:
    """Rows that are stored in another order keep their codes; mode "int8" then computes what the file stores."""
    said = {name: values[0] for name, values in SAID[model_type].items()}
    theirs = build(drawn(model_type, 1, **said | {"num_attention_heads": 4}), 1, 0.15, "eager")
    path = converted(theirs, tmp_path / "m.gguf", "Q8_0")
    full, codes = load(path, quantize=None, device="cpu"), load(path, quantize="int8", device="cpu")
    for name in ("blocks.1.attn.qkv", "blocks.2.mlp.up"):
        layers: list[Any] = [lm.decoder.get_submodule(name) for lm in (codes, full)]
        stored = layers[0].codes * layers[0].scale.float().repeat_interleave(32, 1)
        assert torch.equal(stored, layers[1].weight)
    save(codes.decoder, codes.checkpoint, tmp_path / "saved", name="random")
    ids = torch.tensor(ROWS[:1])
    assert torch.equal(load(tmp_path / "saved", device="cpu").logits(ids), codes.logits(ids))


@pytest.mark.parametrize(
    ("model_type", "keys", "message"),
    [
        ("mpt", {"attention.max_alibi_bias": 0.0}, r"alibi_bias_max=0.0 in m.gguf, which gives the heads other slopes"),
        ("mpt", {"attention.head_count_kv": 2}, r"found mpt.attention.head_count_kv=2 in m.gguf; expected 4"),
        (
            "cohere",
            {"logit_scale": None},
            r"found command-r.logit_scale=None in m.gguf; expected a value of type float",
        ),
        ("phi3", {"attention.sliding_window": None}, r"found phi3.attention.sliding_window=None in m.gguf"),
        ("olmo3", {"attention.sliding_window_pattern": [True]}, r"olmo2.attention.sliding_window_pattern=.True. for 3"),
        ("olmo", {"attention.layer_norm_epsilon": 1e-3}, r"found olmo.attention.layer_norm_epsilon=0.001"),
        (
            "qwen2",
            {"attention.sliding_window": 8},
            r"found qwen2.attention.sliding_window=8 in m.gguf; expected no wind",
        ),
        ("qwen2", {"expert_count": 8}, r"found qwen2.expert_count=8 in m.gguf; expected 0"),
        ("llama", {"expert_count": 8}, r"found llama.expert_used_count=None in m.gguf; expected a value of type int"),
        ("glm4", {"nextn_predict_layers": 1}, r"found glm4.nextn_predict_layers=1 in m.gguf; expected 0"),
        ("gpt_neox", {"rope.dimension_count": 9}, r"9 of a head's 8 components rotated in m.gguf; expected an even"),
    ],
)
def test_what_a_key_cannot_mean_is_refused_by_name(
    model_type: str, keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    said = {name: values[0] for name, values in SAID[model_type].items()}
    theirs = build(drawn(model_type, 0, **said))
    with pytest.raises(CutawayError, match=message):
        open_checkpoint(converted(theirs, tmp_path / "m.gguf", keys=keys))
