"""Roles of ids in a GGUF vocabulary: BOS, EOS, padding, by metadata key and by their spelling.

It does not know how a text is split into tokens (from_gguf.py). Keys and rules: llama.cpp's llama-vocab.cpp.
"""

from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # tokenizer.ggml.token_type

# role → key in tokenizer.ggml (the misspelling is the format's)
ROLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "sep_token": "seperator_token_id",
    "mask_token": "mask_token_id",
}
ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")  # of a text, a chat turn, a message
TEMPLATE_NAMES = "tokenizer.chat_templates"  # a list of names, each under tokenizer.chat_template.NAME
# Defaults of SentencePiece files
SENTENCEPIECE = {"unk_token": (0, "<unk>"), "bos_token": (1, "<s>"), "eos_token": (2, "</s>")}
# Tokens that end a chat turn or a text whatever the keys say: many files name only one of several.
SPELLED_ENDS = frozenset(
    "<|eot_id|> <|eom_id|> <|im_end|> <|end|> <end_of_turn> <|endoftext|> <|end_of_text|> <EOT> _<EOT> "
    "<｜end▁of▁sentence｜> <end_of_utterance>".split()
)


# Keys with one value → its type; keys with one value per token or merge → the type of each
ONE: dict[str, type] = {
    **dict.fromkeys([*ROLES.values(), *ENDS], int),
    **dict.fromkeys(("add_bos_token", "add_eos_token", "add_space_prefix", "remove_extra_whitespaces"), bool),
    **dict.fromkeys(("model", "pre"), str),
}
MANY: dict[str, tuple[type, ...]] = {"tokens": (str,), "merges": (str,), "token_type": (int,), "scores": (float, int)}


def unsound(metadata: dict[str, Any]) -> str | None:
    """The first value of `tokenizer.*` of a wrong type or length, as text; None where all are sound."""
    for key, kind in ONE.items():
        value = metadata.get(f"tokenizer.ggml.{key}")
        if value is not None and type(value) is not kind:
            return f"tokenizer.ggml.{key}={str(value)[:40]}"
    for key, kinds in MANY.items():
        values = metadata.get(f"tokenizer.ggml.{key}")
        if values is not None and not (isinstance(values, list) and all(type(value) in kinds for value in values)):
            return f"tokenizer.ggml.{key}={str(values)[:40]}"
        count = len(metadata.get("tokenizer.ggml.tokens") or ())
        if values is not None and key in ("token_type", "scores") and len(values) != count:
            return f"{len(values)} values of tokenizer.ggml.{key} for {count} tokens"
    templates = (key for key in metadata if key.startswith("tokenizer.chat_template") and key != TEMPLATE_NAMES)
    return next((f"{key}={str(metadata[key])[:40]}" for key in templates if type(metadata[key]) is not str), None)


def tokens_of(metadata: dict[str, Any]) -> list[str]:
    """The vocabulary in the order of its ids; an empty token gets a spelling, as in llama.cpp."""
    tokens = metadata.get("tokenizer.ggml.tokens") or []
    return [token or f"[EMPTY_{id_}]" for id_, token in enumerate(tokens)]


def types_of(metadata: dict[str, Any]) -> list[int]:
    """Each token's type; all normal where the file has none."""
    types = metadata.get("tokenizer.ggml.token_type")
    return [NORMAL] * len(tokens_of(metadata)) if types is None else [int(kind) for kind in types]


def role_ids(metadata: dict[str, Any]) -> tuple[dict[str, int], list[str]]:
    """Role → id, and notes: ids that no token has are ignored."""
    tokens = tokens_of(metadata)
    stated = {role: metadata.get(f"tokenizer.ggml.{key}") for role, key in ROLES.items()}
    ids = {role: int(id_) for role, id_ in stated.items() if id_ is not None}
    if metadata.get("tokenizer.ggml.model") == "llama":
        defaults = {role: id_ for role, (id_, spelling) in SENTENCEPIECE.items() if tokens[id_ : id_ + 1] == [spelling]}
        ids = defaults | ids
    beyond = {role: id_ for role, id_ in ids.items() if tokens and not 0 <= id_ < len(tokens)}
    listed = ", ".join(f"{ROLES[role]}={id_}" for role, id_ in beyond.items())
    note = f"the GGUF file says {listed}, which its vocabulary of {len(tokens)} tokens does not have: passed over"
    return {role: id_ for role, id_ in ids.items() if role not in beyond}, [note] if beyond else []


def end_ids(metadata: dict[str, Any]) -> list[int]:
    """Ids that end a text, in order: those named by a key, and those whose spelling is in SPELLED_ENDS."""
    tokens, types = tokens_of(metadata), types_of(metadata)
    keyed = {metadata.get(f"tokenizer.ggml.{key}") for key in ENDS} | {role_ids(metadata)[0].get("eos_token")}
    ids = {int(id_) for id_ in keyed if id_ is not None and (not tokens or 0 <= int(id_) < len(tokens))}
    typed = enumerate(zip(tokens, types, strict=False))
    return sorted(ids | {i for i, (token, kind) in typed if token in SPELLED_ENDS and kind in (CONTROL, USER_DEFINED)})
