"""Recorded values against forward hooks on transformers' own modules: embedding to logits, in float32 within 1e-4."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from cutaway.ground.config import DecoderConfig
from cutaway.lm import LM, load
from cutaway.text.pieces import Tokens
from tests.parity import real
from tests.tiny import saved

TINY = Tokens.from_ids([[3, 5, 7, 2, 9, 1, 4], [8, 3, 3, 6, 4, 9, 5]])
Captured = dict[str, Tensor]


def hooked(model: PreTrainedModel, tokens: Tokens, names: dict[str, str]) -> tuple[Captured, Any]:
    """What the modules of these names returned, by our names for it, and the model's own output."""
    seen: Captured = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    hooks = [model.get_submodule(theirs).register_forward_hook(keep(ours)) for ours, theirs in names.items()]
    with torch.no_grad():
        output = model(input_ids=tokens.ids, output_attentions=True)
    for hook in hooks:
        hook.remove()
    return seen, output


def modules(kind: str, layers: int) -> dict[str, str]:
    """Where each of our values is born in transformers' modules. "attn.qkv": three in one, split below."""
    block, parts = {
        "opt": ("model.decoder.layers", {"attn.q": "self_attn.q_proj", "attn.k": "self_attn.k_proj",
                "attn.v": "self_attn.v_proj", "attn_out": "self_attn.out_proj", "mlp.pre": "fc1", "mlp_out": "fc2"}),
        "gpt2": ("transformer.h", {"attn.qkv": "attn.c_attn", "attn_out": "attn.c_proj", "mlp.pre": "mlp.c_fc",
                 "mlp.post": "mlp.act", "mlp_out": "mlp.c_proj", "ln1.out": "ln_1", "ln2.out": "ln_2"}),
        "llama": ("model.layers", {"attn.q": "self_attn.q_proj", "attn.k": "self_attn.k_proj",
                  "attn.v": "self_attn.v_proj", "attn_out": "self_attn.o_proj", "mlp.pre": "mlp.gate_proj",
                  "mlp.pre_linear": "mlp.up_proj", "mlp_out": "mlp.down_proj", "ln1.out": "input_layernorm",
                  "ln2.out": "post_attention_layernorm"}),
        "gemma2": ("model.layers", {"attn.q": "self_attn.q_proj", "attn.k": "self_attn.k_proj",
                   "attn.v": "self_attn.v_proj", "attn.out": "self_attn.o_proj", "attn_out": "post_attention_layernorm",
                   "ln1.out": "input_layernorm", "ln2.out": "pre_feedforward_layernorm", "mlp.out": "mlp.down_proj",
                   "mlp_out": "post_feedforward_layernorm"}),
        "olmo2": ("model.layers", {"attn.q": "self_attn.q_proj", "attn.k": "self_attn.k_proj",
                  "attn.v": "self_attn.v_proj", "attn.q_norm.out": "self_attn.q_norm", "attn.out": "self_attn.o_proj",
                  "attn.k_norm.out": "self_attn.k_norm", "attn_out": "post_attention_layernorm",
                  "mlp.out": "mlp.down_proj", "mlp_out": "post_feedforward_layernorm"}),
        "gptj": ("transformer.h", {"attn.q": "attn.q_proj", "attn.k": "attn.k_proj", "attn.v": "attn.v_proj",
                 "attn_out": "attn.out_proj", "mlp.pre": "mlp.fc_in", "mlp_out": "mlp.fc_out", "ln1.out": "ln_1"}),
        "cohere": ("model.layers", {"attn.q": "self_attn.q_proj", "attn.k": "self_attn.k_proj",
                   "attn.v": "self_attn.v_proj", "attn.q_norm.out": "self_attn.q_norm", "ln1.out": "input_layernorm",
                   "attn.k_norm.out": "self_attn.k_norm", "attn_out": "self_attn.o_proj", "mlp_out": "mlp.down_proj"}),
    }[kind]  # fmt: skip
    table = {f"blocks.{i}.{ours}": f"{block}.{i}.{theirs}" for i in range(layers) for ours, theirs in parts.items()}
    embeddings = {"opt": "model.decoder.embed_tokens", "gpt2": "transformer.wte", "gptj": "transformer.wte"}
    # a block of opt that norms after its sums returns what its last norm made
    table |= {f"blocks.{i}.exit": f"{block}.{i}" for i in range(layers)}
    return table | {"embed.token": embeddings.get(kind, "model.embed_tokens")}


def compare(lm: LM, model: PreTrainedModel, kind: str, tokens: Tokens) -> set[str]:
    """Every captured value equals the recorded one within 1e-4 of its largest; the kinds of sites compared."""
    config: DecoderConfig = lm.config
    captured, output = hooked(model, tokens, modules(kind, config.n_layers))
    for i in range(config.n_layers):
        if f"blocks.{i}.attn.qkv" in captured:
            parts = captured.pop(f"blocks.{i}.attn.qkv").chunk(3, -1)
            captured |= {f"blocks.{i}.attn.{name}": part for name, part in zip("qkv", parts, strict=True)}
        leaves = "ln2.out" if config.post_norm else "resid_post"
        captured[f"blocks.{i}.{leaves}"] = captured.pop(f"blocks.{i}.exit")
        captured[f"blocks.{i}.attn.pattern"] = output.attentions[i]
    captured["logits"] = output.logits
    trace = lm.trace(tokens)
    for site, theirs in captured.items():
        ours = trace[site]
        apart = (ours - theirs.reshape(ours.shape)).abs().max()  # heads side by side, and OPT's MLP texts too
        assert apart <= 1e-4 * theirs.abs().max().clamp(min=1), site
    return {site.split(".", 2)[-1] if site.startswith("blocks.") else site for site in captured}


@pytest.mark.parametrize(
    "name",
    ["opt", "opt-125m-like", "opt-350m-like", "gpt2", "llama", "llama-gqa", "llama-biases", "llama-llama3",
     "gemma2-drawn", "olmo2-drawn", "gptj-drawn", "cohere-drawn"],
)  # fmt: skip
def test_recorded_values_are_those_of_hooks_on_transformers(name: str, tmp_path: Path):
    folder, _ = saved(name, tmp_path)
    lm = load(folder, quantize=None, dtype="float32", device="cpu")
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    kinds = compare(lm, model, name.split("-")[0], TINY)
    assert {"embed.token", "attn.q", "attn.k", "attn.v", "attn.pattern", "attn_out", "mlp_out", "logits"} <= kinds
    assert kinds & {"resid_post", "ln2.out"}


@pytest.mark.real
@pytest.mark.xdist_group("real")
def test_on_the_default_model_too():
    lm = real.ours()
    for prompt in real.PROMPTS[:2]:
        compare(lm, real.theirs(), "llama", lm.tokenize(prompt))
