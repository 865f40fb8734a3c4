"""The small tokenizer files that stand on the hub: each loads as transformers loads it, or is refused truly.

The files of tests/published/tokenizer are as published (their sources stand in its README); vocabularies are made here.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend

from cutaway.ground.errors import NoTokenizer
from cutaway.text.chat import chat_prompt
from cutaway.text.tokenizer import Tokenizer
from tests.text.conftest import as_transformers
from tests.tiny import byte_level

PUBLISHED = Path(__file__).parents[1] / "published" / "tokenizer"
TEXTS = ["the cat sat", "  the cat ", " 🙂 日本<s>the</s> x", "\n\nthe<|endoftext|>the", " <|im_end|>hi", "</s>the"]
TYPES = {"command-r-v01": "cohere", "mistral-7b-instruct-v0.2": "mistral", "kimi-k2-instruct": "kimi_k2"}


@pytest.fixture(scope="module")
def backend() -> Backend:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<|endoftext|>"]
    return byte_level(["the cat sat on the mat", "the dog ran to the cat"] * 5, 330, special)


def folder_of(folder: Path, name: str | None, model_type: str, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type} | config))
    if name is not None:
        shutil.copy(PUBLISHED / f"{name}.json", folder / "tokenizer_config.json")
    return folder


@pytest.mark.parametrize(
    "name",
    ["opt-1.3b", "llama-2-7b-chat", "deepseek-coder-6.7b-instruct", "mistral-7b-instruct-v0.2", "command-r-v01"],
)
def test_beside_a_tokenizer_json(backend: Backend, tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path, name, TYPES.get(name, "opt" if name == "opt-1.3b" else "llama"))
    backend.save(str(folder / "tokenizer.json"))
    as_transformers(folder, TEXTS)


def test_command_rs_named_templates(backend: Backend, tmp_path: Path) -> None:
    backend.save(str(folder_of(tmp_path, "command-r-v01", "cohere") / "tokenizer.json"))
    prompt = chat_prompt(Tokenizer.from_folder(tmp_path), [{"role": "user", "content": "Hello"}])
    assert prompt.startswith("<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hello<|END_OF_TURN_TOKEN|>")


def test_roles_that_are_empty_strings_are_the_vocabularys_own(backend: Backend, tmp_path: Path) -> None:
    backend.save(str(folder_of(tmp_path, "llama-7b-empty-tokens", "llama") / "tokenizer.json"))
    names = Tokenizer.from_folder(tmp_path).names
    assert names == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@pytest.mark.parametrize("name", ["kimi-k2-instruct", "xgen-7b-8k-base"])
@pytest.mark.parametrize("with_json", [True, False])
def test_code_of_the_models_own_is_refused_by_name(
    backend: Backend, tmp_path: Path, name: str, with_json: bool
) -> None:
    folder = folder_of(tmp_path, name, TYPES.get(name, "llama"))
    if with_json:
        backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(NoTokenizer, match=r"Python code of the model's own \(tokenization_\w+\.\w+\)") as caught:
        Tokenizer.from_folder(folder)
    assert ("take auto_map out of tokenizer_config.json" in str(caught.value)) == with_json


def test_following_the_advice_ends_in_a_tokenizer(backend: Backend, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "xgen-7b-8k-base", "llama")
    backend.save(str(folder / "tokenizer.json"))
    for key in ("auto_map", "add_special_tokens"):
        with pytest.raises(NoTokenizer, match=f"take {key} out of"):
            Tokenizer.from_folder(folder)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config.pop(key)
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer.from_folder(folder).tokenize("the cat").ids.shape[1] > 1


@pytest.mark.parametrize(
    ("name", "model_type", "others"),
    [
        ("opt-1.3b", "opt", {}),
        ("opt-1.3b", "opt", {"added_tokens.json": {"<|im_end|>": "next id"}}),
        ("opt-1.3b", "opt", {"special_tokens_map.json": {"eos_token": "<|endoftext|>", "unk_token": "<unk>"}}),
        (None, "gpt2", {"tokenizer_config.json": {"model_max_length": 1024}}),
        (None, "gpt2", {"tokenizer_config.json": {"add_prefix_space": True, "tokenizer_class": "GPT2Tokenizer"}}),
        (None, "gpt2", {"special_tokens_map.json": {"pad_token": "[PAD]", "eos_token": {"content": "</s>"}}}),
        (None, "gpt2", {"tokenizer_config.json": {"additional_special_tokens": ["<|im_end|>"], "add_bos_token": True}}),
    ],
)
def test_vocab_and_merges_are_read_as_transformers_reads_them(
    backend: Backend, tmp_path: Path, name: str | None, model_type: str, others: dict[str, Any]
) -> None:
    folder = folder_of(tmp_path, name, model_type)
    backend.model.save(str(folder))
    for file, content in others.items():
        following = str(backend.get_vocab_size())
        (folder / file).write_text(json.dumps(content).replace('"next id"', following))
    as_transformers(folder, TEXTS)


def test_opts_folder_as_on_the_hub_gives_the_notebooks_ids(bare_opt: Path) -> None:
    folder = folder_of(bare_opt, "opt-1.3b", "opt")
    roles = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(roles))
    tokenizer = as_transformers(folder, [*TEXTS, "naïve café 🙂 日本語 텍스트", "def f(x):\n    return  x\t"])
    ids = tokenizer.tokenize("The quick brown fox jumps over the lazy dog").ids.tolist()
    assert ids == [[2, 133, 2119, 6219, 23602, 13855, 81, 5, 22414, 2335]]
    assert tokenizer.vocab_size == 50265


def test_what_the_files_do_not_say_of_opt_is_opts_own(backend: Backend, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, None, "opt")
    backend.model.save(str(folder))
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 2048}')
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (2, 2, 1)
    assert tokenizer.tokenize("the").ids[0, 0] == 2


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
RANKS = "IQ== 0\nIg== 1\n"


@pytest.mark.parametrize(
    ("files", "found", "do"),
    [
        ({"tokenizer.json": POINTER}, "tokenizer.json in .* that is a Git LFS pointer", "git lfs pull"),
        ({"tokenizer.model": POINTER}, "tokenizer.model in .* that is a Git LFS pointer", "git lfs pull"),
        ({"tokenizer.model": RANKS}, "tokenizer.model in .*, which transformers reads with tiktoken", "pip install"),
        ({"tiktoken.model": RANKS}, "tiktoken.model in .* reads with tiktoken", "run: pip install tiktoken"),
        ({"tekken.json": "{}"}, "tekken.json in .* reads with mistral-common", "run: pip install mistral-common"),
        ({"spiece.model": "x"}, "spiece.model in .* reads with sentencepiece protobuf", "pip install sentencepiece"),
        ({"vocab.txt": "[UNK]\na\nb\n"}, "GPT2Tokenizer does not read vocab.txt", "fetch"),
        ({"tokenizer.model": "not a model"}, "cannot be read .*tokenizer.model", "fetch"),
        ({"vocab.json": "[1]", "merges.txt": ""}, "cannot be read .*vocab.json and merges.txt", "fetch"),
        ({"tokenizer.json": "{}", "tokenizer_config.json": "{"}, "cannot be read .tokenizer_config.json: ", "fetch"),
        (
            {"tokenizer.json": "{}", "tokenizer_config.json": '{"tokenizer_class": "PreTrainedTokenizerFast"}'},
            r"tokenizer files in .* that cannot be read \(Model missing.*\); expected files that fit together",
            "fetch",
        ),
        ({"tokenizer.model": "", "tokenizer_config.json": '{"added_tokens_decoder": [1]}'}, "cannot be read", "fetch"),
    ],
)
def test_what_cannot_be_read_is_said_truly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], found: str, do: str
) -> None:
    monkeypatch.setattr("cutaway.text.from_folder.find_spec", lambda module: None)  # as where none is installed
    folder_of(tmp_path, None, "gpt2")
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(NoTokenizer, match=found) as caught:
        Tokenizer.from_folder(tmp_path)
    assert do in str(caught.value)
    assert "\n" not in str(caught.value)


def test_vocab_and_merges_of_another_kind_of_model_are_no_guess(backend: Backend, tmp_path: Path) -> None:
    backend.model.save(str(folder_of(tmp_path, None, "llama")))
    with pytest.raises(NoTokenizer, match=r"LlamaTokenizer does not read|without a rule of how a text is cut"):
        Tokenizer.from_folder(tmp_path)


def test_f12_a_pad_token_without_a_row_still_pads(backend: Backend, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    saved = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    saved.add_special_tokens({"pad_token": "[PAD]"})
    saved.save_pretrained(folder_of(tmp_path, None, "gpt2", vocab_size=len(saved) - 1))
    padded = saved(["the cat", "the cat sat on"], padding=True, padding_side="right")
    tokens = Tokenizer.from_folder(tmp_path).tokenize(["the cat", "the cat sat on"])
    assert tokens.ids.tolist() == padded.input_ids
    assert tokens.ids.max() == len(saved) - 1
    assert tokens.mask.tolist() == padded.attention_mask
