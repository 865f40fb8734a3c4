"""Pre-tokenizers of byte-level vocabularies, by their names in GGUF files.

It does not know tokens nor merges. The names (tokenizer.ggml.pre) and what each implies are llama.cpp's
(llama-vocab.cpp); the patterns are those of the models' own tokenizer.json.
"""

from dataclasses import dataclass, replace
from typing import Any

from tokenizers import Regex, pre_tokenizers

from cutaway.ground.errors import NoTokenizer
from cutaway.text.gguf_roles import tokens_of


@dataclass(frozen=True)
class Split:
    """patterns: each isolates its matches, one after another. then_gpt2: GPT-2's pattern last. whole_words: a word that
    is in the vocabulary is one token, even where no merges lead to it. bos: a text begins with BOS unless the file says
    otherwise. composed: characters are composed first (Unicode NFC)."""

    patterns: tuple[str, ...]
    then_gpt2: bool = False
    whole_words: bool = False
    bos: bool = False
    composed: bool = False

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        """The tokenizers library's pre-tokenizer."""
        cuts = [_cut(pattern) for pattern in self.patterns]
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.then_gpt2)
        return pre_tokenizers.Sequence([*cuts, last]) if cuts else last


def _cut(pattern: str) -> pre_tokenizers.PreTokenizer:
    if pattern == DIGIT:  # the class in those tokenizer.json files: its Unicode is newer than the pattern's
        return pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


DIGIT = r"\p{N}"
TIKTOKEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = Split((), then_gpt2=True)
DIGITS = Split((DIGIT,), then_gpt2=True)
LLAMA3 = Split((TIKTOKEN,), whole_words=True, bos=True)
QWEN2 = Split((TIKTOKEN.replace("{1,3}", ""),))
SEED = Split((TIKTOKEN.replace("{1,3}", "").replace(r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}\r\n]+"),))
# Words of capitals and small letters: " Hello", "World"; then of capitals alone.
CASED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
CAPITALS = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = Split((rf"{CASED}|{CAPITALS}|{DIGIT}{OTHERS}",), whole_words=True, bos=True)
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = Split((rf"{CASED}{ENDING}|{CAPITALS}{ENDING}|{DIGIT}{{1,3}}{OTHERS}",))
BLOOM = Split((r" ?[^(\s|.,!?…。，、।۔،)]+",))
DEEPSEEK_CODER = Split((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", DIGIT))

SPLITS = {
    **dict.fromkeys("gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de gigachat mellum exaone4 jais".split(), GPT2),
    "trillion": GPT2,
    **dict.fromkeys("smollm starcoder refact codeshell exaone minerva-7b".split(), DIGITS),
    **dict.fromkeys("llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2".split(), LLAMA3),
    **dict.fromkeys(("smaug-bpe", "dbrx", "glm4", "chatglm-bpe"), Split((TIKTOKEN,))),
    "bloom": BLOOM,
    **dict.fromkeys("deepseek-r1-qwen kormo megrez hunyuan stablelm2 grok-2".split(), QWEN2),
    "qwen2": replace(QWEN2, composed=True),
    "command-r": replace(DIGITS, composed=True),
    "mpt": replace(GPT2, composed=True),
    "olmo": replace(GPT2, composed=True),
    "tekken": TEKKEN,
    "gpt-4o": O200K,
    "seed-coder": SEED,
    "deepseek-coder": DEEPSEEK_CODER,
}  # fmt: skip
LLAMA3_TOKENS = {"<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>"}
QWEN2_TOKENS, QWEN2_FIRST = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], 151_643
GPT2_SIZE, GPT2_LAST = 50_257, "<|endoftext|>"


def split_of(metadata: dict[str, Any]) -> tuple[Split, list[str]]:
    """The pre-tokenizer of this file, and notes. Raises NoTokenizer for an unknown name."""
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if pre in SPLITS:
        return SPLITS[pre], []
    if pre != "default":
        found = f"a GGUF file with tokenizer.ggml.pre={pre!r}, a rule by which texts are cut"
        raise NoTokenizer(found, f"one of {', '.join(SPLITS)}", "use the model's folder from the hub, or pass ids")
    model = _recognised(tokens_of(metadata))
    unnamed = "the GGUF file does not say how texts are cut before the merges (tokenizer.ggml.pre)"
    if model is not None:
        return SPLITS[model], [f"{unnamed}: taken as {model!r}, by its vocabulary"]
    guess = "GPT-2's rule is used, and IDS MAY DIFFER from those that the model was trained with"
    return GPT2, [f"{unnamed}: {guess}; convert the model anew to be sure"]


def _recognised(tokens: list[str]) -> str | None:
    """The pre-tokenizer's name, where the vocabulary was only published with one."""
    if set(tokens) >= LLAMA3_TOKENS:
        return "llama-bpe"
    if tokens[QWEN2_FIRST : QWEN2_FIRST + 3] == QWEN2_TOKENS:
        return "qwen2"
    return "gpt-2" if len(tokens) == GPT2_SIZE and tokens[-1] == GPT2_LAST else None
