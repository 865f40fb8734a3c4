"""What a folder or a file is, when it is not what we open: every kind by its name, with what to do, in one sentence."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import cutaway
from cutaway.ground.errors import BadCheckpoint, CutawayError, ModelNotFound, UnsupportedModel
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.files import model_path
from cutaway.weights.files.packed import refuse_packed_config
from cutaway.weights.opening import described
from tests.tiny import build, gpt2, set_config

from .test_files_gguf import llama_file

IDS = torch.tensor([[3, 7, 10, 2]])
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 548105171\n"
PAGE = "<!doctype html><html><body>Log in</body></html>"
CONFIG: dict[str, Any] = {"model_type": "gpt2", "n_embd": 24, "n_layer": 3, "n_head": 4, "vocab_size": 11}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A folder that opens."""
    folder = tmp_path / "good"
    build(gpt2()).save_pretrained(folder)
    return folder


def refused(path: Path, kind: type[CutawayError], *parts: str) -> str:
    """The one sentence about a path, which is of this kind and says these parts."""
    with pytest.raises(kind) as caught:
        open_checkpoint(path)
    said = str(caught.value)
    assert said.startswith("found ") and "; expected " in said and "\n" not in said, said
    assert "weights/families" not in said
    for part in parts:
        assert part in said, said
    return said


# --- files that are something else ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"])
def test_a_git_lfs_pointer_says_what_it_points_to(good: Path, name: str) -> None:
    (good / name).write_text(POINTER)
    refused(good, BadCheckpoint, f"{name}, which is a Git LFS pointer to a file of 548.1 MB", f"git lfs pull in {good}")


def test_a_pointer_in_place_of_a_bin_a_shard_an_index_or_a_gguf(good: Path, tmp_path: Path) -> None:
    (good / "model.safetensors").unlink()
    (good / "pytorch_model.bin").write_text(POINTER)
    refused(good, BadCheckpoint, "pytorch_model.bin, which is a Git LFS pointer")
    (good / "model.safetensors.index.json").write_text(POINTER)
    refused(good, BadCheckpoint, "model.safetensors.index.json, which is a Git LFS pointer")
    (tmp_path / "m.gguf").write_text(POINTER)
    refused(tmp_path / "m.gguf", BadCheckpoint, "m.gguf, which is a Git LFS pointer")


def test_a_pointer_that_nothing_reads_is_no_matter(good: Path) -> None:
    (good / "pytorch_model.bin").write_text(POINTER)
    (good / "flax_model.msgpack").write_text(POINTER)
    assert open_checkpoint(good).tensors


OTHER_BYTES = {
    "empty": (b"", "an empty file", "fetch the file again"),
    "page": (PAGE.encode(), "a web page saved in its place", "download the file itself"),
    "s3": (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "a web page saved in its place", "download the file"),
    "hub": (b"Entry not found", "a refusal of the hub saved in its place", "hf auth login"),
    "zeros": (bytes(4096), "zeros, as an interrupted download leaves them", "fetch the file again"),
    "gguf": (b"GGUF\3\0\0\0" + bytes(99), "a GGUF file", "rename it to end in .gguf"),
    "gzip": (b"\x1f\x8b\x08" + bytes(99), "a gzip archive", "unpack it first"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file", "safetensors or PyTorch"),
    "ggml": (b"tjgg\3\0\0\0" + bytes(99), "a GGML file, older than GGUF", ".gguf file"),
}


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "config.json"])
@pytest.mark.parametrize("kind", OTHER_BYTES)
def test_a_file_that_is_something_else_is_named(good: Path, kind: str, file: str) -> None:
    data, what, do = OTHER_BYTES[kind]
    if file == "pytorch_model.bin":
        (good / "model.safetensors").unlink()
    (good / file).write_bytes(data)
    refused(good, BadCheckpoint, f"{file}, which is {what}", do)


def test_each_others_format_is_named(good: Path) -> None:
    (good / "model.safetensors").rename(good / "pytorch_model.bin")
    refused(good, BadCheckpoint, "pytorch_model.bin, which is a safetensors file", "rename it to end in .safetensors")
    torch.save({"w": torch.ones(2)}, good / "model.safetensors")
    refused(good, BadCheckpoint, "model.safetensors, which is a zip archive", "or rename it to .bin where torch.save")


# --- folders that are something else --------------------------------------------------------------------------------


def adapter(folder: Path, **config: Any) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    save_file({"base_model.model.h.0.lora_A.weight": torch.ones(2)}, folder / "adapter_model.safetensors")


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize(
    ("base", "said"), [("microsoft/phi-2", "microsoft/phi-2"), (None, "a base model that it does")]
)
def test_an_adapter_names_its_base(tmp_path: Path, base: str | None, said: str, with_config: bool) -> None:
    adapter(tmp_path, base_model_name_or_path=base)
    if with_config:
        (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    refused(tmp_path, UnsupportedModel, "a LoRA adapter in", f"it changes {said}", "merge it first", "merge_and_unload")


def test_an_adapter_beside_a_whole_model_is_said_to_be_left_out(good: Path) -> None:
    adapter(good, base_model_name_or_path="x/y")
    assert any("the model runs without it" in note for note in open_checkpoint(good).notes)


ONLY = {
    "flax": (["flax_model.msgpack"], "weights for Flax only (flax_model.msgpack)", "from_flax=True"),
    "tensorflow": (["tf_model.h5"], "weights for TensorFlow only", "from_tf=True"),
    "onnx": (["onnx/model.onnx"], "an ONNX export only (onnx/model.onnx)", "exported from"),
    "openvino": (["openvino_model.xml", "openvino_model.bin"], "an OpenVINO export only", "exported from"),
    "coreml": (["model.mlmodel"], "a Core ML export only", "exported from"),
    "mlx": (["weights.00.npz"], "weights for MLX only", "converted from"),
    "diffusers": (["model_index.json", "unet/config.json"], "a diffusers pipeline", "choose a language model"),
    "meta": (["consolidated.00.pth", "params.json"], "weights in Meta's original format", "-hf"),
    "mistral": (["consolidated.safetensors", "params.json"], "weights under Mistral's own names", "same model"),
    "deepspeed": (["global_step500/mp_rank_00_model_states.pt", "latest"], "a DeepSpeed training", "zero_to_fp32.py"),
    "fsdp": (["pytorch_model_fsdp_0/__0_0.distcp"], "a distributed training checkpoint (FSDP)", "merge-weights"),
    "trainer": (["optimizer.pt", "trainer_state.json"], "what a training needs to go on", "name the folder"),
    "torch": (["model.pt"], "weights of torch.save under another name (model.pt)", "pytorch_model.bin"),
    "zip": (["model.zip"], "an archive (model.zip)", "unpack it first"),
}  # fmt: skip


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize("kind", ONLY)
def test_weights_that_others_read_are_named(tmp_path: Path, kind: str, with_config: bool) -> None:
    files, what, do = ONLY[kind]
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    if with_config:
        (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    refused(tmp_path, UnsupportedModel, what, do)


OWN = {
    "whole": ["model.safetensors"],
    "bin": ["pytorch_model.bin"],
    "variant": ["model.fp16.safetensors"],
    "shards": ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
    "bin shards": ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
    "named otherwise": ["mine.safetensors", "yours.safetensors"],
}


@pytest.mark.parametrize("kind", [kind for kind in ONLY if kind != "diffusers"])
@pytest.mark.parametrize("own", OWN)
def test_what_lies_beside_our_own_weights_is_not_what_the_folder_is(tmp_path: Path, own: str, kind: str) -> None:
    """A training's checkpoint whose config.json is gone, shards without their index: each beside what others read."""
    for name in (*OWN[own], *ONLY[kind][0]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    refused(tmp_path, ModelNotFound, f"no config.json in {tmp_path}, which holds", "name the folder that holds config")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    if len(OWN[own]) == 2:
        ending = OWN[own][0].rpartition(".")[2]
        refused(tmp_path, BadCheckpoint, f"2 *.{ending} files and no index in {tmp_path} ({OWN[own][0]}, ")


@pytest.mark.parametrize("files", [["adapter_config.json"], ["adapter_model.safetensors"], ["adapter_model.bin"],
                                   ["adapter_config.json", "adapter_model.bin"]])  # fmt: skip
def test_the_note_about_an_adapter_names_a_file_that_is_there(good: Path, files: list[str]) -> None:
    for name in files:
        (good / name).write_bytes(b"{}")
    (note,) = open_checkpoint(good).notes
    assert note == f"the adapter beside the weights ({files[0]}) is not read: the model runs without it"


def test_an_empty_folder_one_without_weights_and_one_without_config(tmp_path: Path, good: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", ModelNotFound, "an empty folder, ", "name the folder that holds them")
    refused(tmp_path / "nowhere", ModelNotFound, "no folder ", "check its spelling")
    (good / "config.json").unlink()
    refused(good, ModelNotFound, f"no config.json in {good}, which holds generation_config.json, model.safetensors")
    (good / "model.safetensors").unlink()
    (good / "config.json").write_text(json.dumps(CONFIG))
    refused(good, BadCheckpoint, f"no weights in {good}", "fetch the weights too")


@pytest.mark.parametrize("part", ["model.safetensors.incomplete", "model.safetensors.part", "x.crdownload",
                                  ".cache/huggingface/download/abc.incomplete"])  # fmt: skip
def test_a_half_download_is_known_as_one(tmp_path: Path, part: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / part).write_bytes(bytes(1_200_000))
    refused(
        tmp_path, BadCheckpoint, "a download that did not end (", "1.2 MB) and no weights", "run the download again"
    )


def test_a_link_to_a_file_that_is_gone(good: Path) -> None:
    (good / "model.safetensors").unlink()
    (good / "model.safetensors").symlink_to(good / "gone")
    refused(good, BadCheckpoint, "model.safetensors in", "a link to a file that is gone", "fetch the model again")


def test_the_checkpoints_of_a_training_are_named(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "trainer_state.json").write_text("{}")
    for step in (500, 1000):
        (tmp_path / "runs" / f"checkpoint-{step}").mkdir()
        (tmp_path / "runs" / f"checkpoint-{step}" / "config.json").write_text("{}")
    said = refused(tmp_path / "runs", ModelNotFound, "models in its subfolders checkpoint-500, checkpoint-1000")
    assert said.endswith(f"name one of them, for example {tmp_path / 'runs' / 'checkpoint-1000'}.")


def test_shards_without_their_index(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        save_file({"w": torch.ones(2)}, tmp_path / name)
    refused(tmp_path, BadCheckpoint, "2 *.safetensors files and no index", "fetch model.safetensors.index.json too")


def test_a_weights_file_is_no_model_its_folder_is(good: Path) -> None:
    said = refused(good / "model.safetensors", ModelNotFound, "model.safetensors', a part of a model")
    assert said.endswith(f"name its folder, {good}.")


def test_a_zip_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.tgz").write_bytes(b"\x1f\x8b\x08" + bytes(99))
    refused(tmp_path / "model.tgz", BadCheckpoint, "model.tgz, which is a gzip archive", "unpack it first")
    (tmp_path / "model.zip").write_bytes(b"PK\x03\x04" + bytes(99))
    refused(tmp_path / "model.zip", BadCheckpoint, "model.zip, which is a zip archive", "unpack it and name the folder")


def test_a_folder_of_the_hubs_cache_means_its_snapshot(good: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("b" * 40 + "\n")
    (repository / "snapshots" / ("a" * 40)).mkdir(parents=True)
    good.rename(repository / "snapshots" / ("b" * 40))
    for path in (repository, repository / "snapshots", repository / "snapshots" / ("b" * 40)):
        notes: list[str] = []
        assert model_path(path, notes.append) == repository / "snapshots" / ("b" * 40)
        assert len(notes) == (path.name != "b" * 40)
    said = f"{repository / 'snapshots' / ('b' * 40)} is what {repository} holds, and is read"
    assert cutaway.load(repository, quantize=None).notes == [said]
    refused(tmp_path, ModelNotFound, "no config.json in", "models--some--model/snapshots/bbb")


# --- GGUF in folders ------------------------------------------------------------------------------------------------


def test_a_folder_with_one_gguf_is_that_model_whatever_the_case_of_its_ending(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    llama_file(tmp_path / "one" / "m-Q8_0.gguf")
    (tmp_path / "M.GGUF").write_bytes((tmp_path / "one" / "m-Q8_0.gguf").read_bytes())
    (tmp_path / "one" / "mmproj-m.gguf").write_bytes(b"GGUF")
    expected = cutaway.load(tmp_path / "one" / "m-Q8_0.gguf", quantize=None).logits(IDS)
    assert torch.equal(cutaway.load(tmp_path / "M.GGUF", quantize=None).logits(IDS), expected)
    assert torch.equal(cutaway.load(tmp_path / "one", quantize=None).logits(IDS), expected)
    said = f"{tmp_path / 'one' / 'm-Q8_0.gguf'} is what {tmp_path / 'one'} holds, and is read"
    assert open_checkpoint(tmp_path / "one").notes[0] == said
    for asked in (tmp_path / "one", str(tmp_path / "one")):
        assert cutaway.load(asked, quantize=None).notes.count(said) == 1
        assert described(asked)[0].notes.count(said) == 1


def test_a_folder_with_several_gguf_lists_them_and_parts_of_one_count_once(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"m-{number:05d}-of-00003.gguf").write_bytes(b"GGUF")
    assert model_path(tmp_path) == tmp_path / "m-00001-of-00003.gguf"
    (tmp_path / "m-00001-of-00003.gguf").rename(tmp_path / "else")
    assert model_path(tmp_path) == tmp_path / "m-00002-of-00003.gguf"
    (tmp_path / "else").rename(tmp_path / "m-00001-of-00003.gguf")
    (tmp_path / "n-Q4_0.gguf").write_bytes(b"GGUF")
    refused(tmp_path, ModelNotFound, "2 models in", ": m-00001-of-00003.gguf, n-Q4_0.gguf; expected one .gguf file")


def test_other_weights_come_before_a_gguf(good: Path) -> None:
    (good / "m.gguf").write_bytes(b"GGUF")
    assert model_path(good) == good


# --- quantized by others --------------------------------------------------------------------------------------------

PUBLISHED = {  # quantization_config of config.json files as published, and their message
    "TheBloke/Llama-2-7B-AWQ": (
        {"quant_method": "awq", "zero_point": True, "group_size": 128, "bits": 4, "version": "gemm"},
        "AWQ, 4 bits a weight",
    ),
    "a GPTQ export of gpt2": (
        {"bits": 4, "damp_percent": 0.01, "desc_act": False, "group_size": 128, "quant_method": "gptq", "sym": True},
        "GPTQ, 4 bits a weight",
    ),
    "unsloth/llama-3-8b-Instruct-bnb-4bit, of GPT-2": (
        {"_load_in_4bit": True, "_load_in_8bit": False, "bnb_4bit_quant_type": "nf4", "load_in_4bit": True,
         "load_in_8bit": False, "quant_method": "bitsandbytes"},
        "bitsandbytes, 4 bits a weight",
    ),
    "RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic, of GPT-2": (
        {"config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}}},
         "format": "naive-quantized", "quant_method": "compressed-tensors"},
        "compressed-tensors, 8 bits a weight",
    ),
    "Qwen/Qwen3-8B-FP8, of GPT-2": (
        {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]},
        "fp8, 8 bits a weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_quantized_checkpoint_is_named_by_its_method_and_bits(good: Path, name: str) -> None:
    quantization, said = PUBLISHED[name]
    set_config(good, quantization_config=quantization)
    refused(good, UnsupportedModel, f"a quantized checkpoint: {said}", "cutaway makes the 8 bits itself")


@pytest.mark.parametrize("quantization", [None, {}, {"quant_method": "bitsandbytes", "load_in_4bit": False,
                                                     "load_in_8bit": False}])  # fmt: skip
def test_a_config_that_says_that_nothing_was_quantized(quantization: Any) -> None:
    refuse_packed_config({"quantization_config": quantization})


def test_mlx_has_a_key_of_its_own() -> None:
    with pytest.raises(UnsupportedModel, match=r"a quantized checkpoint: MLX, 4 bits a weight"):
        refuse_packed_config({"quantization": {"group_size": 64, "bits": 4}})


PACKED = {
    "gptq": ({"h.0.attn.c_attn.qweight": torch.ones(2, dtype=torch.int32)}, "a GPTQ or AWQ checkpoint"),
    "bnb8": (
        {"h.0.w.weight": torch.ones(2).to(torch.uint8), "h.0.w.SCB": torch.ones(2)},
        "bitsandbytes checkpoint in 8",
    ),
    "bnb4": ({"h.0.w.weight.absmax": torch.ones(2)}, "a bitsandbytes checkpoint in 4 bits"),
    "mxfp4": ({"h.0.mlp.experts.up_proj_blocks": torch.ones(2)}, "an MXFP4 checkpoint"),
    "hqq": ({"h.0.w.W_q": torch.ones(2)}, "an HQQ checkpoint"),
    "eetq": ({"h.0.w.weight_scales": torch.ones(2)}, "an EETQ checkpoint"),
    "quanto": ({"h.0.w.weight._data": torch.ones(2)}, "a quanto or torchao checkpoint"),
    "aqlm": ({"h.0.w.codebooks": torch.ones(2)}, "an AQLM checkpoint"),
    "vptq": ({"h.0.w.centroids": torch.ones(2)}, "a VPTQ checkpoint"),
    "exl2": ({"h.0.w.q_invperm": torch.ones(2)}, "an EXL2 checkpoint"),
    "exl3": ({"h.0.w.trellis": torch.ones(2)}, "an EXL3 checkpoint"),
    "mlx": ({"h.0.w.scales": torch.ones(2)}, "an MLX checkpoint"),
    "zero point": (
        {
            "h.0.w.weight": torch.ones(2, 2).to(torch.int8),
            "h.0.w.weight_scale": torch.ones(1),
            "h.0.w.weight_zero_point": torch.ones(1),
        },
        "an fp8 or compressed-tensors checkpoint",
    ),
    "ct": ({"h.0.w.weight_packed": torch.ones(2, dtype=torch.int32)}, "a compressed-tensors checkpoint"),
    "fp8": ({"h.0.w.weight": torch.ones(2).to(torch.float8_e4m3fn), "h.0.w.weight_scale": torch.ones(1)}, "an fp8 or"),
    "fp8-bare": (
        {"h.0.w.weight": torch.ones(2).to(torch.float8_e4m3fn)},
        "'h.0.w.weight' in float8_e4m3fn in model.safetensors, an fp8 checkpoint without scales",
    ),
    "int8": ({"h.0.w.weight": torch.ones(2).to(torch.int8)}, "'h.0.w.weight' in int8 in model.safetensors"),
    "lora": ({"h.0.w.lora_A.default.weight": torch.ones(2)}, "the tensors of a LoRA adapter"),
}


@pytest.mark.parametrize("kind", PACKED)
def test_packed_tensors_are_known_where_no_config_says_so(good: Path, kind: str) -> None:
    tensors, said = PACKED[kind]
    save_file(tensors, good / "model.safetensors")
    refused(good, UnsupportedModel, said, "merge it first" if kind == "lora" else "weights in full precision" if
            kind not in ("int8", "fp8-bare") else "weights in float64, float32")  # fmt: skip


def test_every_message_is_about_what_is_there() -> None:
    """No `do` of the tables names the source, and each is an imperative that a sentence can end with."""
    from cutaway.weights.files.recognize import MAGIC, ONLY

    asks: list[str] = [do for *_, do in MAGIC] + [do for *_, do in ONLY]
    check: Callable[[str], Any] = re.compile(r"(choose|fetch|unpack|rename|run|join|save|name)\b.*[^.]").fullmatch
    assert [do for do in asks if not check(do)] == []
