"""A model's generation_config.json as our defaults, with transformers' meaning.

Its lengths are not used: an answer has 50 new tokens unless the caller says otherwise. It does not know files.
"""

from collections.abc import Mapping
from typing import Any

from cutaway.ground.errors import BadArgument
from cutaway.sample.settings import Sampling

OBEYED = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop_strings")
# What transformers' generate would do and cutaway does not, with the value that does nothing.
NOT_DONE: dict[str, Any] = {
    "num_beams": 1, "typical_p": 1.0, "min_length": 0, "min_new_tokens": 0, "no_repeat_ngram_size": 0,
    "penalty_alpha": 0.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "top_h": None, "bad_words_ids": None,
    "force_words_ids": None, "suppress_tokens": None, "begin_suppress_tokens": None, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "sequence_bias": None, "guidance_scale": 1, "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None, "watermarking_config": None, "dola_layers": None,
    "num_return_sequences": 1,
}  # fmt: skip


def published_settings(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings that generation_config.json gives, and a note for each of its values that is ignored."""
    settings: dict[str, Any] = {}
    notes = []
    for name in OBEYED:
        value = config.get(name)
        if value is None:
            continue
        try:
            Sampling(**{name: value})
            settings[name] = value
        except BadArgument as error:
            notes.append(f"generation_config.json says {name}={value!r}, which is left out: {error.expected} would do")
    ignored = {name: config.get(name) for name, neutral in NOT_DONE.items() if config.get(name) not in (None, neutral)}
    ignored = {name: value for name, value in ignored.items() if value not in ([], {}, 0, False)}
    if ignored:
        listed = ", ".join(f"{name}={value!r}" for name, value in ignored.items())
        notes.append(f"generation_config.json also says {listed}, which cutaway does not do")
    return settings, notes


def sampling_of(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Sampling:
    """The given settings, and the model's defaults for the rest. Raises BadArgument for an unknown name."""
    if not isinstance(given, Mapping):
        raise BadArgument(f"{type(given).__name__} as settings", "a dict of them", 'pass for example {"top_p": 0.9}')
    names = list(Sampling.__dataclass_fields__)
    for name in given:
        if name not in names:
            raise BadArgument(f"the argument {name}={given[name]!r}", f"one of {', '.join(names)}", "leave it out")
    return Sampling(**{**defaults, **given})
