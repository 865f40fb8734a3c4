"""A .gguf file → a folder in Hugging Face's format that every engine reads: the file's exact values, in float32.

It knows what cutaway makes of the file, and nothing of the engines.
"""

import json
import sys
from pathlib import Path

import torch

from cutaway.text.from_gguf import tokenizer_files_from_gguf
from cutaway.weights.files.gguf import hugging_face_view, open_gguf
from cutaway.weights.files.safetensors import write_safetensors


def main(source: Path, out: Path) -> None:
    gguf = open_gguf(source)
    config, tensors = hugging_face_view(gguf)
    out.mkdir()
    specs = {name: (torch.float32, tensor.shape) for name, tensor in tensors.items()}
    write_safetensors(out / "model.safetensors", specs, lambda name: tensors[name].read().float(), {"format": "pt"})
    (out / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2), encoding="utf-8")
    tokenizer_files_from_gguf(gguf.metadata, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
