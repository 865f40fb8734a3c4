"""Names that other libraries give the settings of generation, each answered with ours.

It does not know what a setting does.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from cutaway.ground.errors import BadArgument

RENAMED = {
    theirs: ours
    for ours, names in {
        "max_new_tokens": "max_tokens n_tokens num_tokens new_tokens max_gen_len max_completion_tokens num_predict "
        "max_output_tokens n_predict max_tokens_to_sample max_new n_new_tokens",
        "max_length": "max_len length max_seq_len",
        "stop_strings": "stop stops stop_sequences stop_words stop_string stop_tokens",
        "temperature": "temp",
        "top_k": "topk",
        "top_p": "topp nucleus",
        "min_p": "minp",
        "repetition_penalty": "repeat_penalty rep_penalty rep_pen repetition_penality",
        "seed": "random_seed rng_seed random_state manual_seed",
        "do_sample": "sample sampling",
        "add_special_tokens": "prepend_bos add_bos",
        "sites": "site names_filter",
        "edits": "edit fwd_hooks",
    }.items()
    for theirs in names.split()
}
# What has no setting of its own: what is there instead, and what to do
INSTEAD = {
    name: answer
    for names, answer in {
        "greedy": ("do_sample, False for the highest logit", "pass do_sample=False"),
        "n best_of num_return_sequences num_samples": (
            "one text for each answer",
            "pass the text several times, with do_sample=True",
        ),
        "num_beams beam_size beam_width num_beam_groups": ("one beam: there is no beam search here", "leave it out"),
        "frequency_penalty presence_penalty no_repeat_ngram_size": (
            "repetition_penalty, the one penalty there is",
            "pass for example repetition_penalty=1.1",
        ),
        "eos_token_id stop_token_ids stop_at_eos ignore_eos": (
            "the model's own end-of-text tokens",
            "leave it out, or pass stop_strings",
        ),
    }.items()
    for name in names.split()
}
# The same for names that only Python code has
INSTEAD_IN_PYTHON = {
    name: answer
    for names, answer in {
        "stream streamer": ("lm.stream, which yields a Step a token", "call lm.stream with the other arguments"),
        "messages": ("lm.chat, which takes messages", "call lm.chat(messages)"),
        "input_ids inputs prompt text": ("texts or ids as the first argument", "pass it without a name"),
        "attention_mask": ("ids and mask as Tokens", "pass Tokens.from_ids(ids, mask) as the first argument"),
        "output_scores output_logits logprobs": ("the steps of the result (out.steps)", "leave it out"),
        "output_attentions": ("sites, the values to record", 'pass sites="blocks.*.attn.pattern"'),
        "output_hidden_states": ("sites, the values to record", 'pass sites="blocks.*.resid_post"'),
    }.items()
    for name in names.split()
}


def unknown(name: str, value: Any, known: Iterable[str]) -> BadArgument:
    """The answer to a setting that is none: ours for what was meant, else all there are."""
    found = f"{name}={value!r}"
    if ours := our_name(name, known):
        return BadArgument(found, f"{ours}, its name here", f"pass {ours}={value!r}")
    if answer := INSTEAD.get(name) or INSTEAD_IN_PYTHON.get(name):
        return BadArgument(found, *answer)
    return BadArgument(f"the argument {found}", f"one of {', '.join(known)}", "leave it out")


def our_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that was meant: a neighbour's, or one misspelled."""
    if name in RENAMED or name in INSTEAD or name in INSTEAD_IN_PYTHON:
        return RENAMED.get(name)
    return next(iter(get_close_matches(name, list(known), 1, 0.75)), None)
