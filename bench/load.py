"""Claim: loading a checkpoint takes the model's bytes and little more: peak RSS under 1.15 × the model + 600 MB.

The same in 8 bits, by the bytes of 8 bits; and what was saved in 8 bits opens in under 1.5 s, mapped, not read. So
does the default model in full precision, which is dequantized from its GGUF, its tokenizer included.

The large model is a stand-in of opt-1.3b: its exact shape with random float16 weights, made once by transformers in the
folder given (default: the system's temporary folder), as .bin and as safetensors. Each load is a process of its own.
"""

import sys
import tempfile
from pathlib import Path

from measure import in_a_process, report

DEFAULT = Path(tempfile.gettempdir()) / "cutaway-opt-1.3b-like"
MAKE = """
import sys, torch
from pathlib import Path
from transformers import OPTConfig, OPTForCausalLM
out = Path(sys.argv[1])
torch.set_default_dtype(torch.float16)
torch.nn.init.normal_ = lambda t, *a, **k: t  # initialised below, once
model = OPTForCausalLM(OPTConfig(vocab_size=50272, hidden_size=2048, num_hidden_layers=24, ffn_dim=8192,
    num_attention_heads=32, max_position_embeddings=2048, word_embed_proj_dim=2048))
torch.manual_seed(0)
with torch.no_grad():
    for p in model.parameters():
        p.copy_(torch.empty(p.shape, dtype=torch.float32).normal_(0, 0.02) + (1.0 if p.ndim == 1 else 0.0))
model.save_pretrained(out / "safetensors")
(out / "bin").mkdir(exist_ok=True)
(out / "bin" / "config.json").write_text((out / "safetensors" / "config.json").read_text())
torch.save(model.state_dict(), out / "bin" / "pytorch_model.bin")
result = {}
"""

# process: seconds since the process began, imports and all, which is what a user waits
LOAD = """
import os, sys, time
import torch, cutaway
from cutaway.model import architecture
start = time.perf_counter()
path, mode, dtype = (word or None for word in sys.argv[1:])
lm = cutaway.load(path, quantize=mode, dtype=dtype, device="cpu")
if path is None:
    lm.tokenizer
result = {"seconds": time.perf_counter() - start, "model": architecture.nbytes(lm.decoder)}
since_boot = float(open("/proc/uptime").read().split()[0])
began = int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
result["process"] = since_boot - began
"""
SAVE = "import sys; from cutaway.weights.opening import quantize; quantize(sys.argv[1], sys.argv[2]); result = {}"


def stand_in(folder: Path) -> Path:
    """The folder with the stand-in in both forms, made if it is not there."""
    if not (folder / "bin" / "pytorch_model.bin").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        in_a_process(MAKE, str(folder))
    return folder


def row(name: str, path: Path | None, mode: str, dtype: str = "") -> list[str]:
    """Load twice, each in a process of its own, and tell of the second: the file is in the page cache.

    path: None for the default model. mode, dtype: as for cutaway.load, "" for None.
    """
    in_a_process(LOAD, str(path or ""), mode, dtype)
    got = in_a_process(LOAD, str(path or ""), mode, dtype)
    limit = 1.15 * got["model"] + 600e6
    gigabytes = (f"{got[key] / 1e9:.2f} GB" for key in ("model", "peak_rss", "anonymous_rss"))
    asked = f"peak RSS < {limit / 1e9:.2f} GB"
    holds = got["peak_rss"] < limit
    if path is None:
        asked, holds = "load < 1.5 s", got["seconds"] < 1.5
    elif path.name == "opt-int8":
        asked, holds = "load < 1.5 s, anonymous < 0.40 GB", got["seconds"] < 1.5 and got["anonymous_rss"] < 400e6
    return [name, f"{got['seconds']:.2f} s", f"{got['process']:.2f} s", *gigabytes, asked, "yes" if holds else "NO"]


def main() -> None:
    folder = stand_in(Path(sys.argv[1]) if sys.argv[1:] else DEFAULT)
    rows = []
    for form in ("bin", "safetensors"):
        rows += [row(f"{form} → bfloat16", folder / form, "", "bfloat16"), row(f"{form} → int8", folder / form, "int8")]
    saved = folder / "opt-int8"
    if not saved.exists():
        in_a_process(SAVE, str(folder / "safetensors"), str(saved))
    rows.append(row("a folder of `cutaway quantize`", saved, "int8"))
    rows.append(row("the default model's GGUF → float32", None, ""))
    header = ["from → to", "load", "with imports", "model", "peak RSS", "anonymous RSS", "asked", "holds"]
    report(
        "load",
        "Loading opt-1.3b's shape and the default model on the CPU, ready for the first token",
        header,
        rows,
    )


if __name__ == "__main__":
    main()
