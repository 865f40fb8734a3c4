"""The README's `cutaway.load("facebook/opt-1.3b")`, at full size: the published config, one .bin, OPT's vocabulary."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import cutaway
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.load import empty_decoder

PUBLISHED = Path(__file__).parents[1] / "published"
SHARED = Path(__file__).parents[2].parent / "shared"
VOCABULARY = SHARED / "opt-tokenizer"  # 50,265 tokens, too large to stand here

pytestmark = pytest.mark.skipif(not VOCABULARY.is_dir(), reason="needs OPT's vocabulary in ../shared/opt-tokenizer")


def names_and_shapes(layers: int = 24) -> dict[str, tuple[int, ...]]:
    """The tensors of facebook/opt-1.3b's pytorch_model.bin, or of its first layers."""
    width, wide = 2048, 8192
    decoder: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (50272, width), "embed_positions.weight": (2050, width),
        "final_layer_norm.weight": (width,), "final_layer_norm.bias": (width,),
    }  # fmt: skip
    for i in range(layers):
        linears = {f"self_attn.{n}_proj": (width, width) for n in ("k", "v", "q", "out")}
        linears |= {"fc1": (wide, width), "fc2": (width, wide)}
        for name, shape in linears.items():
            decoder |= {f"layers.{i}.{name}.weight": shape, f"layers.{i}.{name}.bias": shape[:1]}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            decoder |= {f"layers.{i}.{name}.{leaf}": (width,) for leaf in ("weight", "bias")}
    return {f"model.decoder.{name}": shape for name, shape in decoder.items()}


def as_on_the_hub(folder: Path, layers: int = 24) -> Path:
    """The folder of facebook/opt-1.3b with random weights: one pytorch_model.bin in float16, and no tokenizer.json.

    layers: fewer for a smaller model, otherwise alike.
    """
    random = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)).mul_(0.02).half()
    state: dict[str, torch.Tensor] = {}
    for i, (name, shape) in enumerate(names_and_shapes(layers).items()):
        count = torch.Size(shape).numel()
        values = random.roll(7919 * i).repeat(-(-count // len(random)))[:count].view(shape).clone()
        state[name] = values + 1 if name.endswith("norm.weight") else values
    state["model.decoder.embed_positions.weight"][1] = 0.0  # as published: the row of padding
    state["lm_head.weight"] = state["model.decoder.embed_tokens.weight"]  # tied: the same bytes under two names
    folder.mkdir()
    torch.save(state, folder / "pytorch_model.bin")
    for name, target in (("opt/opt-1.3b.json", "config.json"), ("generation/opt-1.3b.json", "generation_config.json"),
                         ("tokenizer/opt-1.3b.json", "tokenizer_config.json")):  # fmt: skip
        shutil.copyfile(PUBLISHED / name, folder / target)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>") | {"pad_token": "<pad>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(VOCABULARY / name, folder / name)
    return folder


def test_from_load_to_text(tmp_path: Path):
    folder = as_on_the_hub(tmp_path / "opt-1.3b")
    try:
        checkpoint = open_checkpoint(folder)
        decoder = empty_decoder(checkpoint.facts)
        assert sum(p.numel() for p in decoder.parameters()) - decoder.unembed.head.weight.numel() == 1_315_758_080

        lm = cutaway.load(folder, device="cpu")  # in 8 bits, as the README says
        assert lm.notes == [] and lm.config.tied_head
        tokens = lm.tokenize(["I like Machine Learning", "The sun rises in the east"])
        assert tokens.ids.tolist() == [[2, 100, 101, 14969, 13807, 1, 1], [2, 133, 3778, 10185, 11, 5, 3017]]
        assert tokens.mask.tolist() == [[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]]
        fox = lm.tokenize("The quick brown fox jumps over the lazy dog").ids[0].tolist()
        assert fox == [2, 133, 2119, 6219, 23602, 13855, 81, 5, 22414, 2335]
        trace = lm.trace(tokens, ["embed.token", "embed.position", "blocks.0.attn_out"])
        assert [list(trace[site].shape) for site in trace] == [[2, 7, 2048]] * 3
        out = lm.generate("I love", max_length=12, do_sample=True, temperature=0.7, top_p=0.8, seed=0)
        assert isinstance(out.text, str) and out.text and len(out.new_ids[0]) <= 9
    finally:
        shutil.rmtree(folder)
