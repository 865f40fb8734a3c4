"""A tokenizer from `tokenizer.model` and the small files beside it, by SentencePiece's own rules.

It does not read the bytes of the file (sentencepiece_file.py does), nor a tokenizer.json. Ids of a plain text are
SentencePiece's; BOS, EOS and added tokens are those of transformers' LlamaTokenizer, as models were trained with it.
"""

import re
from dataclasses import replace
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from cutaway.ground.errors import NoTokenizer
from cutaway.text.folder_settings import Settings, add_tokens, read_settings, unreadable
from cutaway.text.from_gguf import merges_from_scores
from cutaway.text.parts import NAMES, Parts, add_ends
from cutaway.text.sentencepiece_file import Kind, Method, SentencePieces, read_sentencepiece
from cutaway.text.spelling import SPACE

# The classes whose ids are the file's. Others shift them (XGLM) or have their own rules (Gemma).
CLASSES = (None, "LlamaTokenizer", "LLaMATokenizer", "PreTrainedTokenizer", "TokenizersBackend")


def parts_from_sentencepiece(folder: Path) -> Parts:
    """The tokenizer of a folder's tokenizer.model. Raises NoTokenizer for a file that is none or is truncated, and
    for what no backend computes (word models, spaces as suffixes)."""
    try:
        model = read_sentencepiece((folder / "tokenizer.model").read_bytes())
    except ValueError as error:
        raise unreadable(folder, f"tokenizer.model: {error}") from error
    if model.method is Method.WORD or model.whitespace_as_suffix:
        kind = "of whole words" if model.method is Method.WORD else "with spaces at the end of words"
        found = f"a SentencePiece model {kind} in {folder}"
        raise NoTokenizer(found, "pieces found by BPE, unigram or characters", "pass ids instead of texts")
    settings = read_settings(folder)
    model, settings = _renamed(model, settings)
    try:
        backend = _backend(model, settings)
    except Exception as error:  # tokenizers raises bare Exception
        raise unreadable(folder, f"tokenizer.model: {error}") from error
    own = {role: model.pieces[id_] for role, id_ in model.roles.items()}
    names = own | {role: settings.names[role].content for role in NAMES if role in settings.names}
    _add_special_tokens(backend, model, settings, list(names.values()), folder)
    notes = _add_template(backend, names, settings)
    return Parts(backend, names, settings.chat_template, notes)


def _renamed(model: SentencePieces, settings: Settings) -> tuple[SentencePieces, Settings]:
    """The model with the placeholder pieces renamed to which the added tokens give another name."""
    old = set(model.pieces)
    new = {i: t.content for i, t in settings.added.items() if i < len(model.pieces) and t.content not in old}
    pieces = [new.get(i, piece) for i, piece in enumerate(model.pieces)]
    kinds = [Kind.CONTROL if i in new else kind for i, kind in enumerate(model.kinds)]
    special = {token.content for token in (*settings.names.values(), *settings.special)}
    raw = {i: _as_written(token, token.content in special) for i, token in settings.added.items()}
    return replace(model, pieces=pieces, kinds=kinds), replace(settings, added=raw)


def _as_written(token: AddedToken, special: bool) -> AddedToken:
    """The token, matched in the text before normalization: each span between two of them is normalized by itself."""
    flags = {"lstrip": token.lstrip, "rstrip": token.rstrip, "single_word": token.single_word}
    return AddedToken(token.content, special=special or token.special, normalized=False, **flags)


def _backend(model: SentencePieces, settings: Settings) -> Backend:
    backend = Backend(_unigram(model) if model.method is Method.UNIGRAM else _bpe(model, settings))
    prefix = model.add_dummy_prefix and settings.config.get("add_prefix_space") is not False
    # Without "legacy", only the start of a text gets a space, not each span between special tokens
    each = settings.config.get("legacy") is not False or not model.escape_whitespaces
    backend.normalizer = normalizers.Sequence(_normalizers(model, prefix and each))
    cuts: list[pre_tokenizers.PreTokenizer] = []
    if prefix and not each:
        cuts.append(pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False))
    if unsplit := [piece for piece, kind in zip(model.pieces, model.kinds, strict=True) if kind is Kind.USER_DEFINED]:
        pattern = "|".join(re.escape(piece) for piece in sorted(unsplit, key=len, reverse=True))
        cuts.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    if model.method is Method.UNIGRAM and model.byte_fallback:  # the characters <0x41> in a text are no byte token
        cuts.append(pre_tokenizers.Split(Regex("<(?=0x[0-9A-F]{2}>)"), behavior="merged_with_previous"))
    if cuts:
        backend.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    steps: list[decoders.Decoder] = [decoders.Replace(SPACE, " ")]
    steps += [decoders.ByteFallback()] if model.byte_fallback else []
    steps += [decoders.Fuse(), *([decoders.Strip(" ", 1, 0)] if prefix else [])]
    backend.decoder = decoders.Sequence(steps)
    return backend


def _unigram(model: SentencePieces) -> models.Model:
    scored = list(zip(model.pieces, model.scores, strict=True))
    return models.Unigram(scored, unk_id=model.roles.get("unk_token"), byte_fallback=model.byte_fallback)


def _bpe(model: SentencePieces, settings: Settings) -> models.Model:
    vocab = {piece: i for i, piece in enumerate(model.pieces)}
    # An added token keeps the id that the files give it, even after a gap
    vocab |= {t.content: i for i, t in settings.added.items() if i >= len(model.pieces) and t.content not in vocab}
    merged = [int(kind) if kind is Kind.NORMAL else int(Kind.CONTROL) for kind in model.kinds]
    unknown = model.roles.get("unk_token")
    return models.BPE(
        vocab=vocab,
        merges=[] if model.method is Method.CHAR else merges_from_scores(model.pieces, model.scores, merged),
        unk_token=None if unknown is None else model.pieces[unknown],
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
        # User-defined pieces are never merged from others: they are isolated, then looked up
        ignore_merges=Kind.USER_DEFINED in model.kinds,
    )


def _normalizers(model: SentencePieces, prefix: bool) -> list[normalizers.Normalizer]:
    """In SentencePiece's order (normalizer.cc): the rules, extra spaces (only U+0020), the prepended one, escaping."""
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if prefix:
        steps.append(normalizers.Prepend(SPACE if model.escape_whitespaces else " "))
    if model.escape_whitespaces:
        steps.append(normalizers.Replace(" ", SPACE))
    return steps


def _add_special_tokens(
    backend: Backend, model: SentencePieces, settings: Settings, names: list[str], folder: Path
) -> None:
    """Add control pieces, roles and added tokens, those with an id first: never split, no space prepended."""
    control = [piece for piece, kind in zip(model.pieces, model.kinds, strict=True) if kind is Kind.CONTROL]
    of_files = [_as_written(token, True) for token in (*settings.names.values(), *settings.special)]
    own = [AddedToken(token, special=True, normalized=False) for token in dict.fromkeys([*names, *control])]
    by_id = {token.content for token in settings.added.values()}
    in_files = by_id | {token.content for token in of_files}
    add_tokens(backend, [token for token in own if token.content not in in_files])
    add_tokens(backend, [token for _, token in sorted(settings.added.items())])
    add_tokens(backend, [token for token in of_files if token.content not in by_id])
    for id_, token in settings.added.items():
        if backend.token_to_id(token.content) != id_:
            why = f"the added token {token.content!r} has id {id_}, and the vocabulary gives it another"
            raise unreadable(folder, why)


def _add_template(backend: Backend, names: dict[str, str], settings: Settings) -> tuple[str, ...]:
    """BOS before a text and EOS after it, as the files say; by default BOS only. Returns the notes."""
    add_ends(backend, names, bos=settings.add_bos is not False, eos=bool(settings.add_eos))
    if settings.add_bos is None and "bos_token" in names:
        bos = names["bos_token"]
        return (f"no file says add_bos_token: {bos} is put before each text, as Llama's models were trained",)
    return ()
