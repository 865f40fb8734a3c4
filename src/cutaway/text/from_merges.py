"""A tokenizer from `vocab.json` and `merges.txt`, the hub's files of GPT-2 and OPT.

It does not know a tokenizer.json. Special tokens that no file names come from the model's config, then from its type.
"""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from cutaway.text.folder_settings import Settings, add_tokens, read_json, read_settings, unreadable
from cutaway.text.parts import NAMES, Parts, add_ends

# Each model type's defaults. transformers takes GPT-2's tokens for all, hence no BOS for OPT, whose models were trained
# with one.
KINDS: dict[str, dict[str, str]] = {
    "opt": {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"},
    "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
}
WITH_BOS = ("opt",)
CLASSES = (None, "GPT2Tokenizer")


def parts_from_merges(folder: Path, model_type: str | None = None) -> Parts | None:
    """The tokenizer of a folder with vocab.json and merges.txt; None for a model type that is not in the table.
    Raises NoTokenizer for files that do not fit together."""
    config, settings = read_json(folder / "config.json"), read_settings(folder)
    kind = str(config.get("model_type") or model_type)
    if kind not in KINDS or settings.config.get("auto_map"):
        return None
    if settings.tokenizer_class not in CLASSES or config.get("tokenizer_class") not in CLASSES:
        return None
    try:
        vocab, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
        vocab |= {token.content: i for i, token in settings.added.items() if token.content not in vocab}
        backend = Backend(models.BPE(vocab=vocab, merges=merges))
    except Exception as error:  # tokenizers raises bare Exception
        raise unreadable(folder, f"vocab.json and merges.txt: {error}") from error
    prefix = bool(settings.config.get("add_prefix_space"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    names = _names(kind, vocab, config, settings)
    by_role = [AddedToken(token, special=True, normalized=False) for token in dict.fromkeys(names.values())]
    by_file = [*settings.names.values(), *settings.special]
    in_files = {token.content for token in by_file}
    add_tokens(backend, [token for _, token in sorted(settings.added.items())])
    add_tokens(backend, [token for token in by_role if token.content not in in_files] + by_file)
    add_bos = kind in WITH_BOS if settings.add_bos is None else settings.add_bos
    add_ends(backend, names, bos=bool(add_bos), eos=bool(settings.add_eos))
    return Parts(backend, names, settings.chat_template)


def _names(kind: str, vocab: dict[str, int], config: dict[str, Any], settings: Settings) -> dict[str, str]:
    """role → token: from the tokenizer's files, else config.json's id, else the default where the vocabulary has it."""
    tokens = {id_: token for token, id_ in vocab.items()}
    names = {role: token for role, token in KINDS[kind].items() if token in vocab}
    for role in NAMES:
        id_ = config.get(f"{role}_id")
        if isinstance(id_, int) and id_ in tokens:
            names[role] = tokens[id_]
        if role in settings.names:
            names[role] = settings.names[role].content
    return names
