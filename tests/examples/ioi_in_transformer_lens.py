"""The IOI experiment of examples/ioi_patching.ipynb in TransformerLens, on the same weights: writes ioi_figures.json.

It runs in a Python that has transformer-lens, by hand (the command and the versions are in the file): the folder of
SmolLM2-135M-Instruct in float32 (bench/convert/to_folder.py makes it from the default model's GGUF), the file to write.
It knows no cutaway.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

BLOCK = 23  # whose heads are patched, at each position, and ablated; after it the stream is steered
ABLATED = 8  # the first texts, from which heads are ablated
STORIES = {
    "When John and Mary went to the shops, {} gave the bag to": ("Mary", "John"),
    "When Tom and James went to the park, {} gave the ball to": ("Tom", "James"),
    "When Dan and Sid went to the shops, {} gave an apple to": ("Dan", "Sid"),
    "After Martin and Amy went to the park, {} gave a drink to": ("Martin", "Amy"),
}


def measured(bridge: Any, tokenizer: Any) -> dict[str, Any]:
    """Logit difference, lens, attribution by head, patching: means over the eight texts; ablation; steering."""
    told = [(story, *names) for story, (a, b) in STORIES.items() for names in ((a, b), (b, a))]
    clean = torch.tensor([tokenizer(story.format(twice)).input_ids for story, _, twice in told])
    corrupt = torch.tensor([tokenizer(story.format(once)).input_ids for story, once, _ in told])
    right, wrong = (torch.tensor([tokenizer(f" {names[i]}").input_ids[0] for names in told]) for i in (1, 2))
    rows = torch.arange(len(told))

    def difference(logits: torch.Tensor) -> float:
        last, some = logits[:, -1], rows[: len(logits)]
        return float((last[some, right[some]] - last[some, wrong[some]]).mean())

    logits, cache = bridge.run_with_cache(clean)
    directions = bridge.W_U.T[right] - bridge.W_U.T[wrong]  # [texts, D]
    figures: dict[str, Any] = {"clean": difference(logits), "corrupt": difference(bridge(corrupt))}
    figures |= {"lens": lens(bridge, cache, directions), "heads": by_head(bridge, cache, directions)}
    site, width = f"blocks.{BLOCK}.attn.hook_z", bridge.cfg.d_head
    z_clean = cache[site].unflatten(-1, (-1, width)) if cache[site].ndim == 3 else cache[site]

    def patched(ids: torch.Tensor, head: int, position: int | slice, value: torch.Tensor) -> float:
        def hook(z: torch.Tensor, hook: Any) -> torch.Tensor:
            after = z.clone().unflatten(-1, (-1, width)) if z.ndim == 3 else z.clone()
            after[:, position, head] = value[: len(z), position, head]
            return after.reshape(z.shape)

        return difference(bridge.run_with_hooks(ids, fwd_hooks=[(site, hook)]))

    heads, positions, zero = range(bridge.cfg.n_heads), range(clean.shape[1]), torch.zeros_like(z_clean)
    figures["ablated"] = [patched(clean[:ABLATED], head, slice(None), zero) for head in heads]
    figures["patched"] = [[patched(corrupt, head, at, z_clean) for at in positions] for head in heads]
    figures["steered"] = steered(bridge, clean[:1], corrupt[:1])
    return figures


def steered(bridge: Any, clean: torch.Tensor, corrupt: torch.Tensor) -> float:
    """KL(without ‖ with) in nats of the next token, with the difference of the streams added at every position."""
    site = f"blocks.{BLOCK}.hook_resid_post"
    (without, one), (_, other) = bridge.run_with_cache(clean), bridge.run_with_cache(corrupt)
    direction = other[site][:, -1:] - one[site][:, -1:]
    after = bridge.run_with_hooks(clean, fwd_hooks=[(site, lambda value, hook: value + direction)])
    before, after = (of[0, -1].double().log_softmax(-1) for of in (without, after))
    return float((before.exp() * (before - after)).sum())


def lens(bridge: Any, cache: ActivationCache, directions: torch.Tensor) -> list[float]:
    """The logit difference of the stream before the first block, and after each, through the final norm."""
    names = ["blocks.0.hook_resid_pre"] + [f"blocks.{i}.hook_resid_post" for i in range(bridge.cfg.n_layers)]
    return [float((bridge.ln_final(cache[name])[:, -1] * directions).sum(-1).mean()) for name in names]


def by_head(bridge: Any, cache: ActivationCache, directions: torch.Tensor) -> list[list[float]]:
    """What each head wrote into the logit difference, [block, head]: the final norm is a fixed scale and a gain."""
    scale = cache["ln_final.hook_scale"][:, -1]  # [texts, 1]
    rows = []
    for block in range(bridge.cfg.n_layers):
        z = cache[f"blocks.{block}.attn.hook_z"]
        z = z.unflatten(-1, (-1, bridge.cfg.d_head)) if z.ndim == 3 else z
        written = torch.einsum("bhk,hkd->bhd", z[:, -1], bridge.blocks[block].attn.W_O)
        gain = bridge.ln_final.weight
        rows.append(torch.einsum("bhd,bd->bh", written / scale[:, None] * gain, directions).mean(0).tolist())
    return rows


def main() -> None:
    folder, out = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    bridge = TransformerBridge.boot_transformers(
        folder, hf_model=model, tokenizer=tokenizer, dtype=torch.float32, device="cpu"
    )  # no weight is processed
    with torch.no_grad():
        figures = measured(bridge, tokenizer)
    made: dict[str, Any] = {name: version(name) for name in ("transformer-lens", "transformers", "torch")}
    made["command"] = "python tests/examples/ioi_in_transformer_lens.py FOLDER tests/examples/ioi_figures.json"
    made["folder"] = "python bench/convert/to_folder.py: the default model's GGUF in float32"
    Path(out).write_text(json.dumps({"made": made, "block": BLOCK} | figures) + "\n")


if __name__ == "__main__":
    main()
