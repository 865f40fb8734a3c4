"""What can happen to a model's folder, a kind a function: the seed picks the model, its files, tensors and bytes."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.tiny import build, gpt2, llama, opt, set_config

CONFIGS: dict[str, Any] = {
    "opt": opt(num_hidden_layers=2),
    "gpt2": gpt2(n_layer=2),
    "llama": llama(num_hidden_layers=2, num_key_value_heads=2),
}
FORMS = ("whole", "shards", "bin", "bin-shards")
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Folder:
    """A folder to be mutated, and the numbers that pick what happens to it."""

    path: Path
    family: str
    form: str
    dice: random.Random

    def files(self) -> list[Path]:
        """The files that hold tensors."""
        return sorted([*self.path.glob("*.safetensors"), *self.path.glob("*.bin")])

    def file(self) -> Path:
        return self.dice.choice(self.files())

    def index(self) -> Path | None:
        return next(iter(self.path.glob("*.index.json")), None)

    def change(self, how: Callable[[State], State]) -> None:
        """Write one of the files anew, its tensors changed; an index names what its files hold then."""
        file = self.file()
        write(file, how(read(file)))
        self.reindex()

    def change_all(self, how: Callable[[State], State]) -> None:
        for file in self.files():
            write(file, how(read(file)))
        self.reindex()

    def reindex(self) -> None:
        index = self.index()
        if index is not None:
            table = {name: file.name for file in self.files() for name in read(file)}
            index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))

    def name(self, state: State) -> str:
        return self.dice.choice(sorted(state))

    def config(self, **changes: Any) -> None:
        set_config(self.path, **changes)


def read(file: Path) -> State:
    return load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)


def write(file: Path, state: State) -> None:
    state = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    if file.suffix == ".safetensors":
        save_file(state, file, {"format": "pt"})
    else:
        torch.save(state, file)


@cache
def source(family: str) -> tuple[Any, State]:
    model = build(CONFIGS[family])
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return model, state


def good(path: Path, family: str, form: str, dice: random.Random) -> Folder:
    """A folder as save_pretrained and its forerunners leave one."""
    model, state = source(family)
    path.mkdir()
    model.config.save_pretrained(path)
    ending, stem = ("bin", "pytorch_model") if "bin" in form else ("safetensors", "model")
    if "shards" not in form:
        write(path / f"{stem}.{ending}", state)
        return Folder(path, family, form, dice)
    names, table = sorted(state), {}
    for number in range(3):
        file = f"{stem}-{number + 1:05d}-of-00003.{ending}"
        part = names[number::3]
        write(path / file, {name: state[name] for name in part})
        table |= dict.fromkeys(part, file)
    (path / f"{stem}.{ending}.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))
    return Folder(path, family, form, dice)


# --- the kinds of mutation ---------------------------------------------------------------------------------------


def nothing(folder: Folder) -> None:
    """The folder as it is."""


def rename_tensor(folder: Folder) -> None:
    def how(state: State) -> State:
        name = folder.name(state)
        other = folder.dice.choice([name + "_", name.replace("weight", "wieght"), "x." + name, name.upper()])
        return {other if n == name else n: tensor for n, tensor in state.items()}

    folder.change(how)


def remove_tensor(folder: Folder) -> None:
    def how(state: State) -> State:
        name = folder.name(state)
        return {n: tensor for n, tensor in state.items() if n != name}

    folder.change(how)


def swap_tensors(folder: Folder) -> None:
    """Two of one shape under each other's names: nothing can tell, and the numbers are those of the files."""

    def how(state: State) -> State:
        name = folder.name(state)
        other = folder.dice.choice([n for n in sorted(state) if state[n].shape == state[name].shape])
        return state | {name: state[other], other: state[name]}

    folder.change(how)


def duplicate_tensor(folder: Folder) -> None:
    """One tensor in two files, or under a second name."""
    files = folder.files()
    if len(files) == 1:
        folder.change(lambda state: state | {f"copy.{(name := folder.name(state))}": state[name]})
        return
    one, other = folder.dice.sample(files, 2)
    name = folder.name(read(one))
    write(other, read(other) | {name: read(one)[name] * folder.dice.choice([1.0, 2.0])})


def extra_tensor(folder: Folder) -> None:
    names = ["extra.weight", "model.decoder.version", "lm_head.bias", "transformer.h.0.attn.extra", "score.weight",
             "model.layers.7.mlp.up_proj.weight", "v_head.summary.weight"]  # fmt: skip
    folder.change(lambda state: state | {folder.dice.choice(names): torch.ones(3)})


def old_buffers(folder: Folder) -> None:
    """Buffers that older versions saved beside the weights."""
    names = {
        "opt": {"model.decoder.version": torch.tensor(2)},
        "gpt2": {"transformer.h.0.attn.bias": torch.ones(1, 1, 32, 32).tril(), "transformer.h.1.attn.masked_bias":
                 torch.tensor(-1e4)},
        "llama": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
    }  # fmt: skip
    folder.change(lambda state: state | names[folder.family])


def wrong_shape(folder: Folder) -> None:
    def how(state: State) -> State:
        name = folder.name(state)
        tensor = state[name]
        shapes = [tensor[1:], torch.cat([tensor, tensor[:1]]), tensor[None], tensor.reshape(-1), tensor[..., :-1]]
        return state | {name: folder.dice.choice([other for other in shapes if other.shape != tensor.shape])}

    folder.change(how)


def transposed(folder: Folder) -> None:
    def how(state: State) -> State:
        name = folder.dice.choice([n for n in sorted(state) if state[n].ndim == 2])
        return state | {name: state[name].T}

    folder.change(how)


def dtype_of_one(folder: Folder) -> None:
    kinds = [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int64, torch.bool,
             torch.float8_e4m3fn, torch.int32]  # fmt: skip
    kind = folder.dice.choice(kinds)

    def how(state: State) -> State:
        name = folder.name(state)
        return state | {name: state[name].to(kind)}

    folder.change(how)


def dtype_of_all(folder: Folder) -> None:
    kind = folder.dice.choice([torch.float16, torch.bfloat16, torch.float64])
    folder.change_all(lambda state: {name: tensor.to(kind) for name, tensor in state.items()})


def prefix(folder: Folder) -> None:
    """Every name with what a wrapper puts before it, or without its own first part."""
    kind = folder.dice.choice(["module.", "_orig_mod.", "language_model.", "model.", "transformer.", "none", "deepest"])

    def bare(name: str) -> str:
        if kind == "none":
            return re.sub(r"^(model|transformer)\.", "", name)
        return re.sub(r"^(model\.decoder|model|transformer)\.", "", name) if kind == "deepest" else kind + name

    folder.change_all(lambda state: {bare(name): tensor for name, tensor in state.items()})


def prefix_of_some(folder: Folder) -> None:
    before = folder.dice.choice(["module.", "_orig_mod.", "model."])
    folder.change(lambda state: {before + name: tensor for name, tensor in state.items()})


def own_head(folder: Folder) -> None:
    """A head in the file, whatever config.json says."""
    table = {"opt": "model.decoder.embed_tokens.weight", "gpt2": "transformer.wte.weight",
             "llama": "model.embed_tokens.weight"}[folder.family]  # fmt: skip
    factor = folder.dice.choice([1.0, 1.5])
    head = source(folder.family)[1][table] * factor
    file = folder.file()
    write(file, read(file) | {"lm_head.weight": head})
    folder.reindex()
    folder.config(tie_word_embeddings=folder.dice.choice([True, False, ...]))


def head_only(folder: Folder) -> None:
    """The table under the head's name only."""

    def how(state: State) -> State:
        tied = {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}
        return {"lm_head.weight" if re.search("embed_tokens|wte", n) else n: t for n, t in tied.items()}

    folder.change_all(how)
    folder.config(tie_word_embeddings=folder.dice.choice([True, False]))


def truncate_file(folder: Folder) -> None:
    file = folder.file()
    data = file.read_bytes()
    file.write_bytes(
        data[: folder.dice.choice([0, 4, 100, len(data) // 2, len(data) - 1, folder.dice.randrange(len(data))])]
    )


def longer_file(folder: Folder) -> None:
    file = folder.file()
    file.write_bytes(file.read_bytes() + bytes(folder.dice.choice([1, 8, 4096])))


def flip_header(folder: Folder) -> None:
    """A few bytes of a safetensors header, or of a pickle, are others."""
    file = folder.file()
    data = bytearray(file.read_bytes())
    size = 8 + int.from_bytes(data[:8], "little") if file.suffix == ".safetensors" else min(len(data), 1500)
    for _ in range(folder.dice.choice([1, 1, 2, 8])):
        data[folder.dice.randrange(size)] = folder.dice.randrange(256)
    file.write_bytes(data)


def remove_file(folder: Folder) -> None:
    folder.dice.choice([*folder.files(), *filter(None, [folder.index(), folder.path / "config.json"])]).unlink()


def rename_file(folder: Folder) -> None:
    file = folder.file()
    file.rename(
        file.with_name(folder.dice.choice(["weights" + file.suffix, file.name + ".bak", "adapter_" + file.name]))
    )


def swap_files(folder: Folder) -> None:
    """Two shards under each other's names; a whole file under the other format's name."""
    files = folder.files()
    if len(files) == 1:
        name = "pytorch_model.bin" if files[0].suffix == ".safetensors" else "model.safetensors"
        files[0].rename(folder.path / name)
        return
    one, other = folder.dice.sample(files, 2)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def another_format(folder: Folder) -> None:
    """Weights in the other format beside, with other values."""
    _, state = source(folder.family)
    ending = folder.dice.choice(["model.safetensors", "pytorch_model.bin"])
    write(folder.path / ending, {name: tensor * 0.5 for name, tensor in state.items()})


def stale_index(folder: Folder) -> None:
    """An index from another day: whole weights beside it, or names and shards that are no longer there."""
    _, state = source(folder.family)
    index = folder.index()
    if index is None:
        name = f"{folder.file().name}.index.json"
        table = dict.fromkeys(state, "gone-00001-of-00001" + folder.file().suffix)
        (folder.path / name).write_text(json.dumps({"metadata": {}, "weight_map": table}))
        return
    data = json.loads(index.read_text())
    name = folder.name(state)
    kind = folder.dice.choice(["extra name", "lost name", "other shard", "gone shard"])
    if kind == "extra name":
        data["weight_map"]["old.weight"] = folder.file().name
    elif kind == "lost name":
        del data["weight_map"][name]
    else:
        data["weight_map"][name] = folder.file().name if kind == "other shard" else "gone" + folder.file().suffix
    index.write_text(json.dumps(data))


def cut_json(folder: Folder) -> None:
    path = folder.dice.choice(list(filter(None, [folder.path / "config.json", folder.index()])))
    text = path.read_text()
    path.write_text(text[: folder.dice.randrange(len(text) - 1)])


def config_value(folder: Folder) -> None:
    """A size, a switch or a name in config.json is another, or gone."""
    sizes = {
        "opt": ["hidden_size", "num_hidden_layers", "num_attention_heads", "ffn_dim", "max_position_embeddings",
                "word_embed_proj_dim", "vocab_size", "do_layer_norm_before", "activation_function", "enable_bias"],
        "gpt2": ["n_embd", "n_layer", "n_head", "n_positions", "vocab_size", "n_inner", "activation_function",
                 "layer_norm_epsilon", "scale_attn_weights"],
        "llama": ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
                  "intermediate_size", "head_dim", "rms_norm_eps", "hidden_act", "attention_bias", "rope_parameters",
                  "mlp_bias"],
    }[folder.family]  # fmt: skip
    key = folder.dice.choice([*sizes, "tie_word_embeddings", "model_type", "architectures"])
    now = json.loads((folder.path / "config.json").read_text()).get(key)
    values: list[Any] = [..., None, "x", -1, 0]
    if isinstance(now, bool):
        values = [..., not now]
    elif isinstance(now, int):
        values += [now * 2, now + 1, float(now), str(now)]
    elif isinstance(now, float):
        values += [now * 2, 1e-5]
    elif isinstance(now, str):
        values += ["gelu", "relu", "silu"]
    elif isinstance(now, dict):
        values += [{}, {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}, {"rope_theta": 500.0}]
    folder.config(**{key: folder.dice.choice(values)})


def replaced_file(folder: Folder) -> None:
    """Something else under a file's name."""
    path = folder.dice.choice([*folder.files(), folder.path / "config.json"])
    page = b"<!DOCTYPE html><html><body>Sign in</body></html>"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 548105171\n"
    path.write_bytes(folder.dice.choice([b"", page, pointer, bytes(5000), b"[]", b"{}", b"\x1f\x8b" + bytes(99)]))


def other_variant(folder: Folder) -> None:
    """A variant's file beside the weights: nothing reads it."""
    _, state = source(folder.family)
    write(folder.path / "model.fp16.safetensors", {name: tensor.half() for name, tensor in state.items()})


def not_finite(folder: Folder) -> None:
    def how(state: State) -> State:
        name = folder.name(state)
        tensor = state[name].clone()
        tensor.view(-1)[0] = folder.dice.choice([float("inf"), float("nan"), 1e30])
        return state | {name: tensor}

    folder.change(how)


KINDS: dict[Callable[[Folder], None], int] = {
    nothing: 4, rename_tensor: 10, remove_tensor: 10, swap_tensors: 8, duplicate_tensor: 8, extra_tensor: 10,
    old_buffers: 6, wrong_shape: 12, transposed: 6, dtype_of_one: 14, dtype_of_all: 6, prefix: 18, prefix_of_some: 6,
    own_head: 10, head_only: 6, truncate_file: 12, longer_file: 4, flip_header: 14, remove_file: 6, rename_file: 6,
    swap_files: 6, another_format: 6, stale_index: 10, cut_json: 6, config_value: 30, replaced_file: 8,
    other_variant: 3, not_finite: 4,
}  # fmt: skip
