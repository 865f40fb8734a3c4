"""Reading a Hugging Face config.json: what a family's modeling code reads is used, or refused by name and value.

Any other attribute changes no value: it is accepted, with a note where it is set. It does not know any one family, nor
rotary positions (rope.py).
"""

import math
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from cutaway.ground.config import Activation
from cutaway.ground.errors import BadCheckpoint, UnsupportedModel

T = TypeVar("T")
CONFIG = "config.json"

# Attributes that name, describe, train or decode: common, read by no forward pass, accepted without a note.
SILENT = frozenset(
    """_attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash _from_model_config
    _name_or_path architectures attention_dropout attn_implementation auto_map bad_words_ids begin_suppress_tokens
    bos_token_id chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample
    dtype early_stopping encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id id2label init_std initializer_range is_decoder is_encoder_decoder
    is_llama_config label2id length_penalty max_length max_new_tokens min_length model_type no_repeat_ngram_size
    num_beam_groups num_beams num_labels num_return_sequences output_attentions output_hidden_states output_past
    output_scores pad_token_id prefix pretraining_tp problem_type quantization_config remove_invalid_values
    repetition_penalty return_dict return_dict_in_generate sep_token_id suppress_tokens task_specific_params
    temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript
    transformers_weights transformers.js_config transformers_version typical_p unk_token_id use_bfloat16
    use_cache""".split()
)

ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "relu2": "relu2",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}


class ConfigReader:
    """The attributes of one config.json; it records which ones a family has read.

    aliases: other names that transformers takes for an attribute (its attribute_map). source: the file's name in
    errors. Raises UnsupportedModel for a value that the decoder does not compute, BadCheckpoint for a wrong type.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        family: str,
        aliases: Mapping[str, str] | None = None,
        source: str = CONFIG,
    ) -> None:
        self.source = source
        renamed = {ours: config[theirs] for theirs, ours in (aliases or {}).items() if theirs in config}
        self.config = {name: value for name, value in config.items() if name not in (aliases or {})} | renamed
        self.family = family
        self.read: set[str] = set()
        self._notes: list[str] = []

    def take(self, name: str, default: T, kind: type | tuple[type, ...] | None = None) -> T:
        """The attribute's value, or Hugging Face's default where config.json omits it or has null."""
        self.read.add(name)
        value: Any = self.config.get(name)
        if value is None:
            return default
        kind = kind or (type(default) if default is not None else int)
        kind = (int, float) if kind is float else kind
        infinite = isinstance(value, float) and not math.isfinite(value)
        if infinite or not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.wrong(f"{name}={value!r}", f"a value like {default!r}")
        return cast(T, value)

    def positive(self, name: str, default: float) -> float:
        """A number above 0: one that divides, or whose root or logarithm is taken."""
        value = self.take(name, default, float)
        if value <= 0:
            raise self.wrong(f"{name}={value!r}", "a number above 0")
        return value

    def optional(self, name: str, default: float | None) -> float | None:
        """A number above 0, or null for none; the default where config.json omits it."""
        self.read.add(name)
        if self.config.get(name, default) is None:
            return None
        return self.positive(name, 1.0 if default is None else default)

    def size(self, name: str, default: int, optional: bool = False) -> int:
        """A count: an integer of at least 1. optional: null means the default too."""
        if not optional and self.config.get(name, default) is None:
            raise self.wrong(f"{name}=null", f"a number such as {default}")
        value = self.take(name, default, int)
        if value < 1:
            raise self.wrong(f"{name}={value}", "at least 1")
        return value

    def require(self, name: str, supported: Any, why: str) -> None:
        """Refuse every value but this one, which is also the default; why: what another would change."""
        self.read.add(name)
        value = self.config.get(name)
        if value is not None and value != supported:
            found = f"{name}={value!r} in {self.source}, which {why}"
            raise UnsupportedModel(found, f"{name}={supported!r}", "choose a model without it")

    def no_effect(self, *names: str) -> None:
        """Attributes that the modeling code reads for training, other heads or speed: no value here depends on them."""
        self.read.update(names)

    def activation(self, name: str, default: str) -> Activation:
        value = self.take(name, default)
        if value not in ACTIVATIONS:
            found, expected = f"{name}={value!r} in {self.source}", f"one of {', '.join(ACTIVATIONS)}"
            raise UnsupportedModel(found, expected, "choose a model with one")
        return ACTIVATIONS[value]

    def head_width(self, width: int, heads: int) -> int:
        """Width of a head, where the heads divide the model width evenly."""
        if width % heads:
            raise self.wrong(f"a width of {width} for {heads} heads", "a width that the heads divide")
        return width // heads

    def wrong(self, found: str, expected: str) -> BadCheckpoint:
        """The error for a value that no model of the family can have."""
        do = "use the model's own config.json" if self.source == CONFIG else "fetch the file again, or choose another"
        return BadCheckpoint(f"{found} in {self.source}", expected, do)

    def note(self, line: str) -> None:
        """Record a decision that the user should know."""
        self._notes.append(line)

    def notes(self) -> list[str]:
        """The notes on this config, once the family has read it; one line names the attributes that it did not read."""
        left = leftover({name: self.config[name] for name in self.config if name not in self.read | SILENT})
        ignored = [f"{self.source} also says {left}, which {self.family} does not read"] if left else []
        return [*self._notes, *ignored]


def leftover(values: Mapping[str, Any]) -> str:
    """Names and values that are set: not null, false, zero or empty."""
    given = {name: value for name, value in values.items() if value not in (None, False, 0, "", [], {})}
    return ", ".join(f"{name}={_short(value)}" for name, value in given.items())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
