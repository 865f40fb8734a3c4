"""Claim: loading a checkpoint takes the model's bytes and little more: peak RSS under 1.15 × the model + 600 MB.

The model is a stand-in of opt-1.3b: its exact shape with random float16 weights, made once by transformers in the
folder given (default: the system's temporary folder), as .bin and as safetensors. Each load is a process of its own.
"""

import sys
import tempfile
from pathlib import Path

from measure import in_a_process, report

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

LOAD = """
import sys, time
import torch, cutaway
from cutaway.model import architecture
start = time.perf_counter()
lm = cutaway.load(sys.argv[1], quantize=None, dtype="bfloat16", device="cpu")
result = {"seconds": time.perf_counter() - start, "model": architecture.nbytes(lm.decoder)}
"""


def stand_in(folder: Path) -> Path:
    """The folder with the stand-in in both forms, made if it is not there."""
    if not (folder / "bin" / "pytorch_model.bin").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        in_a_process(MAKE, str(folder))
    return folder


def main() -> None:
    folder = stand_in(Path(sys.argv[1]) if sys.argv[1:] else Path(tempfile.gettempdir()) / "cutaway-opt-1.3b-like")
    rows = []
    for form in ("bin", "safetensors"):
        in_a_process(LOAD, str(folder / form))  # warm: the file is in the page cache for both
        got = in_a_process(LOAD, str(folder / form))
        limit = 1.15 * got["model"] + 600e6
        gigabytes = (f"{got[key] / 1e9:.2f} GB" for key in ("model", "peak_rss", "anonymous_rss"))
        holds = "yes" if got["peak_rss"] < limit else "NO"
        rows.append([form, f"{got['seconds']:.1f} s", *gigabytes, f"{limit / 1e9:.2f} GB", holds])
    header = ["file", "load", "model", "peak RSS", "anonymous RSS", "limit", "holds"]
    report("load", "Loading the shape of opt-1.3b in bfloat16 on the CPU", header, rows)


if __name__ == "__main__":
    main()
