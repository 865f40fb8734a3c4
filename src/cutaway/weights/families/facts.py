"""Reading a Hugging Face config.json: every attribute is used, known to be harmless, or refused by name and value.

It knows what many families share (rotary positions, names that never change a value); it does not know any one family.
"""

import math
from typing import Any, TypeVar, cast

from cutaway.ground.config import Activation, RopeConfig
from cutaway.ground.errors import BadCheckpoint, UnsupportedModel

T = TypeVar("T")

# Attributes that name, describe, train or decode, and change no value of a forward pass.
HARMLESS = frozenset(
    """_name_or_path architectures attention_dropout attention_probs_dropout_prob attn_pdrop auto_map
    bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward cross_attention_hidden_size
    decoder_start_token_id diversity_penalty do_sample dropout dtype early_stopping embd_pdrop
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id hidden_dropout hidden_dropout_prob id2label init_std initializer_range is_decoder
    is_encoder_decoder is_llama_config label2id layerdrop length_penalty max_length min_length model_type
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states
    output_scores pad_token_id prefix pretraining_tp problem_type pruned_heads remove_invalid_values
    repetition_penalty resid_pdrop return_dict return_dict_in_generate sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p torch_dtype
    torchscript transformers.js_config transformers_version typical_p use_bfloat16 use_cache""".split()
)

ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}


class Facts:
    """The attributes of one config.json, ticked off as they are read.

    Raises UnsupportedModel for a value that the decoder does not compute, BadCheckpoint for one of a wrong type.
    """

    def __init__(self, config: dict[str, Any], family: str) -> None:
        self.config, self.family = config, family
        self.seen: set[str] = set()

    def take(self, name: str, default: T, kind: type | tuple[type, ...] | None = None) -> T:
        """The attribute's value, or Hugging Face's default where config.json leaves it out or says null."""
        self.seen.add(name)
        value: Any = self.config.get(name)
        if value is None:
            return default
        kind = kind or (type(default) if default is not None else int)
        kind = (int, float) if kind is float else kind
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise BadCheckpoint(
                f"{name}={value!r} in config.json",
                f"a value like {default!r}",
                "use the model's own config.json",
            )
        return cast(T, value)

    def size(self, name: str, default: int) -> int:
        """A count of something: an integer of at least 1."""
        value = self.take(name, default, int)
        if value < 1:
            raise BadCheckpoint(f"{name}={value} in config.json", "at least 1", "use the model's own config.json")
        return value

    def only(self, name: str, *supported: Any) -> None:
        """Refuse every value but these; the first is what leaving it out means."""
        self.seen.add(name)
        value = self.config.get(name, supported[0])
        if value not in supported:
            expected = " or ".join(f"{name}={s!r}" for s in supported)
            raise UnsupportedModel(f"{name}={value!r} in config.json", expected, "choose a model without it")

    def activation(self, name: str, default: str) -> Activation:
        value = self.take(name, default)
        if value not in ACTIVATIONS:
            raise UnsupportedModel(
                f"{name}={value!r} in config.json",
                f"one of {', '.join(ACTIVATIONS)}",
                "choose a model with one",
            )
        return ACTIVATIONS[value]

    def heads(self, width: int, heads: int) -> int:
        """Head width, where heads share the model width evenly."""
        if width % heads:
            found = f"a width of {width} for {heads} heads in config.json"
            raise BadCheckpoint(found, "a width that the heads divide", "use the model's own config.json")
        return width // heads

    def rope(self, d_head: int, n_positions: int) -> RopeConfig:
        """Rotary positions, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""
        new = self.take("rope_parameters", {}, dict)
        old = self.take("rope_scaling", {}, dict)
        theta = self.take("rope_theta", 10000.0, float)
        return rope_config({"rope_theta": theta} | old | new, d_head, n_positions)

    def finish(self) -> None:
        """Refuse what nobody has read and nobody knows to be harmless, by name and value."""
        known = self.seen | HARMLESS
        unknown = {k: v for k, v in self.config.items() if v is not None and k not in known}
        if unknown:
            name, value = next(iter(unknown.items()))
            found = f"{name}={value!r} in config.json"
            raise UnsupportedModel(
                found,
                f"only attributes that the family {self.family!r} computes",
                "choose another model, or teach weights/families what it means",
            )


def rope_config(raw: dict[str, Any], d_head: int, n_positions: int) -> RopeConfig:
    """A RopeConfig from Hugging Face's dictionary; meanings are those of transformers' modeling_rope_utils."""
    facts = Facts(raw, "rotary positions")
    kind = facts.take("rope_type", facts.take("type", "default"))
    theta = float(facts.take("rope_theta", 10000.0, float))
    dims = int(d_head * facts.take("partial_rotary_factor", 1.0, float))
    if kind not in ("default", "linear", "llama3", "yarn"):
        expected = "one of default, linear, llama3, yarn"
        raise UnsupportedModel(f"rope_type={kind!r} in config.json", expected, "choose a model with one of those")
    if kind == "default":
        return RopeConfig(theta, dims)  # transformers reads nothing else here either
    if "factor" not in raw:
        raise BadCheckpoint(f"rope_type={kind!r} without a factor", "a factor", "use the model's own config.json")
    factor = float(facts.take("factor", 1.0, float))
    context = facts.take("original_max_position_embeddings", n_positions, int)
    if kind == "linear":
        rope = RopeConfig(theta, dims, kind, factor)
    elif kind == "llama3":
        low = facts.take("low_freq_factor", 1.0, float)
        high = facts.take("high_freq_factor", 4.0, float)
        rope = RopeConfig(theta, dims, kind, factor, context, float(low), float(high))
    else:
        mscale, all_dim = facts.take("mscale", 0.0, float), facts.take("mscale_all_dim", 0.0, float)
        strength = _yarn_strength(factor, mscale, all_dim)
        rope = RopeConfig(
            theta, dims, kind, factor, context,
            beta_fast=float(facts.take("beta_fast", 32.0, float) or 32),
            beta_slow=float(facts.take("beta_slow", 1.0, float) or 1),
            truncate=facts.take("truncate", True),
            attention_factor=float(facts.take("attention_factor", strength, float)),
        )  # fmt: skip
    facts.finish()
    return rope


def _yarn_strength(factor: float, mscale: float, all_dim: float) -> float:
    def strength(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    return strength(mscale) / strength(all_dim) if mscale and all_dim else strength(1.0)
