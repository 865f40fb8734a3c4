"""A tokenizer from the metadata of a GGUF file: vocabulary, merges, special tokens and their roles.

It does not read the file (weights/files/gguf.py does) and knows no text. Keys and their meaning: the GGUF
specification, and llama.cpp's llama-vocab.cpp where the specification is silent.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from cutaway.ground.errors import NoTokenizer
from cutaway.text.gguf_roles import CONTROL, NORMAL, USER_DEFINED, end_ids, role_ids, tokens_of, types_of, unsound
from cutaway.text.gguf_splits import split_of
from cutaway.text.parts import Parts, add_ends
from cutaway.text.spelling import SPACE

# llama.cpp's kinds of vocabularies that are not built here, and their usual names
OTHERS = {"bert": "WordPiece", "t5": "SentencePiece unigram", "rwkv": "RWKV", "plamo2": "PLaMo-2"}
TEMPLATE = "tokenizer.chat_template"


def parts_from_gguf(metadata: dict[str, Any]) -> Parts:
    """The tokenizer that `tokenizer.*` describes. Raises NoTokenizer where a key is missing or unknown."""
    wrong = unsound(metadata)
    if wrong is not None:
        raise _broken(wrong)
    kind = metadata.get("tokenizer.ggml.model")
    _check_kind(kind, metadata)
    if kind == "llama" and str(metadata.get("general.architecture")).startswith("gemma"):
        metadata = _as_gemma_spells(metadata)
    _check_spelled_once(tokens_of(metadata))
    backend, notes = BUILDERS[str(kind)](metadata)
    ids, ignored = role_ids(metadata)
    names = {role: tokens_of(metadata)[id_] for role, id_ in ids.items()}
    _add_special_tokens(backend, metadata, names)
    _add_template(backend, metadata, names)
    template, chosen = _chat_template(metadata)
    return Parts(backend, names, template, (*notes, *ignored, *chosen))


def _check_kind(kind: Any, metadata: dict[str, Any]) -> None:
    expected = "tokenizer.ggml.model gpt2 (byte-level) or llama (SentencePiece BPE), with its tokens"
    if kind in (None, "none", "no_vocab") or not metadata.get("tokenizer.ggml.tokens"):
        found = f"a GGUF file without a vocabulary (tokenizer.ggml.model={kind!r})"
        raise NoTokenizer(found, expected, "pass ids instead of text, or use another file of this model")
    if kind not in BUILDERS:
        found = f"a GGUF file with a {OTHERS.get(kind, 'different')} vocabulary (tokenizer.ggml.model={kind!r})"
        raise NoTokenizer(found, expected, "use the model's folder from the hub, or pass ids instead of text")


def _chat_template(metadata: dict[str, Any]) -> tuple[str | None, list[str]]:
    """The plain template, which is the default of several; a named one only where it is the only one. And notes."""
    plain = metadata.get(TEMPLATE)
    named = {key.removeprefix(f"{TEMPLATE}."): text for key, text in metadata.items() if key.startswith(f"{TEMPLATE}.")}
    if plain or not named:
        return plain, []
    if len(named) == 1:
        return next(iter(named.values())), []
    return None, [
        f"the GGUF file has chat templates named {', '.join(named)} and none that is the default: none is used"
    ]


def tokenizer_files_from_gguf(metadata: dict[str, Any], folder: Path) -> tuple[str, ...]:
    """Write tokenizer.json and tokenizer_config.json, from which transformers builds the same tokenizer.

    The class named in the config uses tokenizer.json unchanged. BOS and EOS are in its template; add_bos_token is not
    written, since transformers would rebuild the template from it. Returns the tokenizer's notes; raises as
    parts_from_gguf.
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
    return parts.notes


def _byte_level(metadata: dict[str, Any]) -> tuple[Backend, list[str]]:
    """GPT-2's kind: the file lists the merges in order."""
    split, notes = split_of(metadata)
    if "tokenizer.ggml.merges" not in metadata:
        raise _broken("byte-level tokens without tokenizer.ggml.merges")
    backend = Backend(
        models.BPE(vocab=_vocabulary(metadata), merges=_merges(metadata), ignore_merges=split.whole_words)
    )
    backend.pre_tokenizer = split.pre_tokenizer()
    backend.decoder = decoders.ByteLevel()
    if split.composed:
        backend.normalizer = normalizers.NFC()
    return backend, notes


def _merges(metadata: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = (merge.partition(" ") for merge in metadata["tokenizer.ggml.merges"])
    merges, tokens = [(left, right) for left, _, right in pairs], set(tokens_of(metadata))
    for left, right in merges:  # the tokenizers library panics at some that do not fit
        if not {left, right, left + right} <= tokens:
            raise _broken(f"the merge {left!r} {right!r} of what are no tokens")
    return merges


def _sentencepiece(metadata: dict[str, Any]) -> tuple[Backend, list[str]]:
    """Llama 2's kind: unknown characters become bytes. The merges follow from the file's scores; where the file lists
    merges too, they are those of the model's tokenizer.json, and converters cannot have lost their order."""
    tokens, unknown = tokens_of(metadata), role_ids(metadata)[0].get("unk_token", 0)
    merges, notes = _sentencepiece_merges(metadata, tokens)
    vocabulary = _vocabulary(metadata)
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token=tokens[unknown], fuse_unk=True, byte_fallback=True)
    backend = Backend(model)
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    spaces = normalizers.Replace(" ", SPACE)
    # Mistral's since 2024, known by this token: in their tokenizer.json only the start of a text gets a space
    first = prefix and ("[INST]", CONTROL) in zip(tokens, types_of(metadata), strict=True)
    if first:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=False)
    # In Llama 2's, each span between special tokens, whatever it starts with: SentencePiece's own rule
    each = prefix and not first
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if each else spaces
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    if metadata.get("tokenizer.ggml.remove_extra_whitespaces"):
        notes = [*notes, "the GGUF file says remove_extra_whitespaces, which is read for unigram vocabularies only"]
    return backend, notes


def _as_gemma_spells(metadata: dict[str, Any]) -> dict[str, Any]:
    """A Gemma's metadata with the vocabulary of its tokenizer.model: runs of spaces as ▁▁, merged before all else, and
    no space before a text. Converters write real spaces and the score -1000 for these; before July 2024 they called
    the model's own tokens normal, and left their score 0.0 (that of the first merge is -0.0)."""
    tokens, types = tokens_of(metadata), types_of(metadata)
    if not any(metadata.get(f"tokenizer.ggml.{name}") for name in ("scores", "merges")):
        return metadata
    scores = metadata.get("tokenizer.ggml.scores") or [-1.0] * len(tokens)
    words = [str(float(score)) if kind == NORMAL else "" for kind, score in zip(types, scores, strict=True)]
    unmerged = [word == "0.0" and len({*words} - {""}) > 1 for word in words]  # of scores all alike, the order is lost
    types = [USER_DEFINED if own else kind for own, kind in zip(unmerged, types, strict=True)]
    listed = list(zip(tokens, types, scores, strict=True))
    changed = {
        "tokens": [token.replace(" ", SPACE) if kind == USER_DEFINED else token for token, kind, _ in listed],
        "token_type": types,
        "scores": [math.inf if kind == USER_DEFINED else score for _, kind, score in listed],
        "add_space_prefix": metadata.get("tokenizer.ggml.add_space_prefix", False),
    }
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in changed.items()}


def _sentencepiece_merges(metadata: dict[str, Any], tokens: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    if metadata.get("tokenizer.ggml.merges"):
        return _merges(metadata), []
    if "tokenizer.ggml.scores" not in metadata:
        raise _broken("SentencePiece tokens without tokenizer.ggml.scores")
    scores, types = metadata["tokenizer.ggml.scores"], types_of(metadata)
    merges = merges_from_scores(tokens, scores, types)
    alike = len({score for score, kind in zip(scores, types, strict=True) if kind == NORMAL}) == 1 and len(merges) > 1
    lost = "the GGUF file scores all tokens alike, so the order of merges is lost: IDS MAY DIFFER from the model's own"
    return merges, [lost] if alike else []


Builder = Callable[[dict[str, Any]], tuple[Backend, list[str]]]
BUILDERS: dict[str, Builder] = {"gpt2": _byte_level, "llama": _sentencepiece}


def merges_from_scores(tokens: list[str], scores: Any, types: list[int]) -> list[tuple[str, str]]:
    """The merges that SentencePiece would make, best score first: every split of a token into two tokens."""
    normal = {token for token, kind in zip(tokens, types, strict=True) if kind in (NORMAL, USER_DEFINED)}
    found: list[tuple[float, int, int, str, str]] = []
    for token, score in zip(tokens, scores, strict=True):
        if token in normal:
            cuts = ((token[:n], token[n:]) for n in range(1, len(token)))
            found += [(float(score), len(a), len(b), a, b) for a, b in cuts if a in normal and b in normal]
    found.sort(key=lambda merge: merge[:3], reverse=True)
    return [(left, right) for *_, left, right in found]


def _vocabulary(metadata: dict[str, Any]) -> dict[str, int]:
    return {token: id_ for id_, token in enumerate(tokens_of(metadata))}


def _add_special_tokens(backend: Backend, metadata: dict[str, Any], names: dict[str, str]) -> None:
    """Control tokens and tokens with a role are special; user-defined ones are not, but are never split. Phi-3's take
    the white space after them (the file does not say so; llama.cpp knows it too)."""
    tokens = tokens_of(metadata)
    phi3 = metadata["tokenizer.ggml.model"] == "llama" and metadata.get("general.architecture") == "phi3"
    ending = {tokens[id_] for id_ in end_ids(metadata)}
    typed = list(zip(tokens, types_of(metadata), strict=True))
    special = [token for token, kind in typed if kind == CONTROL or token in ending or token in names.values()]
    kept = ("<unk>", "<s>", "<|endoftext|>")
    backend.add_special_tokens(
        [AddedToken(token, normalized=False, special=True, rstrip=phi3 and token not in kept) for token in special]
    )
    ours = set(special)
    unsplit = [token for token, kind in typed if kind == USER_DEFINED and token not in ours]
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in unsplit])


def _add_template(backend: Backend, metadata: dict[str, Any], names: dict[str, str]) -> None:
    """BOS before and EOS after a text, as the file says or, as in llama.cpp, its kind implies."""
    implied = metadata["tokenizer.ggml.model"] == "llama" or split_of(metadata)[0].bos
    bos = metadata.get("tokenizer.ggml.add_bos_token", implied)
    add_ends(backend, names, bos=bos, eos=metadata.get("tokenizer.ggml.add_eos_token", False))


def _check_spelled_once(tokens: list[str]) -> None:
    if len(set(tokens)) != len(tokens):
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise _broken(f"the token {twice!r} under two ids")


def _broken(why: str) -> NoTokenizer:
    found = f"a GGUF tokenizer that does not fit together ({why})"
    return NoTokenizer(found, "ids, tokens and merges that agree", "fetch the file again, or use another one")
