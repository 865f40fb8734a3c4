"""A tokenizer from the metadata of a GGUF file: vocabulary, merges, special tokens and their roles.

It does not read the file (weights/files/gguf.py does) and knows no text. Keys and their meaning: the GGUF
specification, and llama.cpp's llama-vocab.cpp where the specification is silent.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from cutaway.ground.errors import NoTokenizer
from cutaway.text.parts import Parts
from cutaway.text.spelling import SPACE

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # tokenizer.ggml.token_type
ROLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
GPT2, DIGITS, LLAMA3, QWEN2 = "GPT-2's rule", "single digits, then GPT-2's rule", LLAMA3_SPLIT, QWEN2_SPLIT

# tokenizer.ggml.pre → how a text is cut before the merges. "default" is what files from before this key mean.
SPLITS = {
    "default": GPT2,
    "gpt-2": GPT2,
    "smollm": DIGITS,
    "starcoder": DIGITS,
    "llama-bpe": LLAMA3,
    "llama-v3": LLAMA3,
    "llama3": LLAMA3,
    "qwen2": QWEN2,
}


def parts_from_gguf(metadata: dict[str, Any]) -> Parts:
    """The tokenizer that `tokenizer.ggml.*` describes. Raises NoTokenizer where a key is missing or unknown."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in BUILDERS or "tokenizer.ggml.tokens" not in metadata:
        found = f"a GGUF file with tokenizer.ggml.model={kind!r}"
        raise NoTokenizer(found, f"one of {', '.join(BUILDERS)} and its tokens", "use another file of this model")
    _check_spelled_once(metadata["tokenizer.ggml.tokens"])
    try:
        backend = BUILDERS[kind](metadata)
    except NoTokenizer:
        raise
    except Exception as error:  # tokenizers raises bare Exception on merges that do not fit the vocabulary
        raise _broken(str(error)) from error
    names = _names(metadata)
    _add_special_tokens(backend, metadata, names)
    _add_template(backend, metadata, names)
    return Parts(backend, names, metadata.get("tokenizer.chat_template"))


def tokenizer_files_from_gguf(metadata: dict[str, Any], folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, from which transformers builds the same tokenizer.

    The class named in the config is the one that takes tokenizer.json as it is; BOS and EOS are in its template,
    so no add_bos_token is written: transformers would rebuild the template from it. Raises as parts_from_gguf.
    """
    parts = parts_from_gguf(metadata)
    architecture = metadata.get("general.architecture")
    context = metadata.get(f"{architecture}.context_length")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **parts.names,
        "clean_up_tokenization_spaces": False,
        **({"model_max_length": int(context)} if context else {}),
        **({"chat_template": parts.chat_template} if parts.chat_template else {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    parts.backend.save(str(folder / "tokenizer.json"), pretty=False)
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _byte_level(metadata: dict[str, Any]) -> Backend:
    """GPT-2's kind: the file gives the merges in order."""
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if pre not in SPLITS:
        found = f"a GGUF file with tokenizer.ggml.pre={pre!r}"
        raise NoTokenizer(found, f"one of {', '.join(SPLITS)}", "use the model's folder from the hub instead")
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    # Llama 3 takes a word that is a token whole, even where its merges would not reach it (llama.cpp: ignore_merges).
    model = models.BPE(vocab=_vocabulary(metadata), merges=merges, ignore_merges=SPLITS[pre] == LLAMA3)
    backend = Backend(model)
    backend.pre_tokenizer = _splitter(SPLITS[pre])
    backend.decoder = decoders.ByteLevel()
    if SPLITS[pre] == QWEN2:
        backend.normalizer = normalizers.NFC()
    return backend


def _splitter(rule: str) -> pre_tokenizers.PreTokenizer:
    if rule == GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if rule == DIGITS:
        first: pre_tokenizers.PreTokenizer = pre_tokenizers.Digits(individual_digits=True)
    else:
        first = pre_tokenizers.Split(Regex(rule), behavior="isolated")
    second = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule == DIGITS)
    return pre_tokenizers.Sequence([first, second])


def _sentencepiece(metadata: dict[str, Any]) -> Backend:
    """Llama 2's kind: the file gives scores, from which the merges follow; unknown characters become bytes."""
    architecture = str(metadata.get("general.architecture"))
    if architecture.startswith("gemma"):  # its scores are not the order of its merges, and its spaces are spelled twice
        found = f"a SentencePiece vocabulary of {architecture} in a GGUF file"
        raise NoTokenizer(found, "Llama 2's rules", "use the model's folder from the hub instead")
    tokens, unknown = metadata["tokenizer.ggml.tokens"], metadata.get("tokenizer.ggml.unknown_token_id", 0)
    model = models.BPE(
        vocab=_vocabulary(metadata),
        merges=merges_from_scores(tokens, metadata["tokenizer.ggml.scores"], _types(metadata)),
        unk_token=tokens[int(unknown)],
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = Backend(model)
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    spaces = normalizers.Replace(" ", SPACE)
    # SentencePiece's own rule, as in Llama 2's tokenizer.json: a space is put before the text, whatever it starts with.
    normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.normalizer = normalizer
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence([*steps, *strip])
    return backend


BUILDERS: dict[str, Callable[[dict[str, Any]], Backend]] = {"gpt2": _byte_level, "llama": _sentencepiece}


def merges_from_scores(tokens: list[str], scores: Any, types: list[int]) -> list[tuple[str, str]]:
    """The merges that SentencePiece would make, best score first: every way to cut a token into two tokens."""
    normal = {token for token, kind in zip(tokens, types, strict=True) if kind in (NORMAL, USER_DEFINED)}
    found: list[tuple[float, int, int, str, str]] = []
    for token, score in zip(tokens, scores, strict=True):
        if token in normal:
            cuts = ((token[:n], token[n:]) for n in range(1, len(token)))
            found += [(float(score), len(a), len(b), a, b) for a, b in cuts if a in normal and b in normal]
    found.sort(key=lambda merge: merge[:3], reverse=True)
    return [(left, right) for *_, left, right in found]


def _vocabulary(metadata: dict[str, Any]) -> dict[str, int]:
    return {token: id_ for id_, token in enumerate(metadata["tokenizer.ggml.tokens"])}


def _types(metadata: dict[str, Any]) -> list[int]:
    tokens = metadata["tokenizer.ggml.tokens"]
    types = metadata.get("tokenizer.ggml.token_type")
    return [NORMAL] * len(tokens) if types is None else [int(kind) for kind in types]


def _names(metadata: dict[str, Any]) -> dict[str, str]:
    tokens = metadata["tokenizer.ggml.tokens"]
    ids = {role: metadata.get(f"tokenizer.ggml.{key}") for role, key in ROLES.items()}
    outside = [f"{ROLES[role]}={i}" for role, i in ids.items() if i is not None and not 0 <= int(i) < len(tokens)]
    if outside:
        raise _broken(f"{', '.join(outside)} with {len(tokens)} tokens")
    return {role: tokens[int(i)] for role, i in ids.items() if i is not None}


def _add_special_tokens(backend: Backend, metadata: dict[str, Any], names: dict[str, str]) -> None:
    """Control tokens and tokens with a role are special; user-defined ones are only never cut."""
    typed = list(zip(metadata["tokenizer.ggml.tokens"], _types(metadata), strict=True))
    special = [token for token, kind in typed if kind == CONTROL or token in names.values()]
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    whole = [token for token, kind in typed if kind == USER_DEFINED and token not in special]
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in whole])


def _add_template(backend: Backend, metadata: dict[str, Any], names: dict[str, str]) -> None:
    """BOS before and EOS after a text, where the file says so or its kind implies it (as llama.cpp does)."""
    implied = (
        metadata["tokenizer.ggml.model"] == "llama" or SPLITS.get(str(metadata.get("tokenizer.ggml.pre"))) == LLAMA3
    )
    add = {
        "bos_token": metadata.get("tokenizer.ggml.add_bos_token", implied),
        "eos_token": metadata.get("tokenizer.ggml.add_eos_token", False),
    }
    before, after = ([names[role]] if add[role] and role in names else [] for role in ("bos_token", "eos_token"))
    if before or after:
        ids = [(token, backend.token_to_id(token)) for token in dict.fromkeys([*before, *after])]
        template = processors.TemplateProcessing(single=[*before, "$A", *after], special_tokens=ids)
        backend.post_processor = template


def _check_spelled_once(tokens: list[str]) -> None:
    if len(set(tokens)) != len(tokens):
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise _broken(f"the token {twice!r} under two ids")


def _broken(why: str) -> NoTokenizer:
    found = f"a GGUF tokenizer that does not fit together ({why})"
    return NoTokenizer(found, "ids, tokens and merges that agree", "fetch the file again, or use another one")
