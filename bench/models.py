"""The models of the benches, each made at its first use and kept in one folder; and the text that they read.

The large one is the stand-in of opt-1.3b (load.py), the small one cutaway's default model. Each form is made by the
engine's own tools, in its venv, under a temporary name until it is whole.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from functools import cached_property
from pathlib import Path

from load import DEFAULT as STAND_IN
from load import stand_in
from peers import DEFAULT as VENVS
from peers import Missing, python_of

from cutaway.ground.errors import BadCheckpoint
from cutaway.weights.hub import resolve
from cutaway.weights.save import read_manifest

CONVERT = Path(__file__).parent / "convert"
QUANTIZE = (
    "import sys; from cutaway.weights.opening import quantize; quantize(sys.argv[1], sys.argv[3], mode=sys.argv[2])"
)
TOKENIZE = """
import json, sys
from pydoc_data.topics import topics
from cutaway.text.tokenizer import Tokenizer
from pathlib import Path
text = "\\n\\n".join(topics[name].strip() for name in sorted(topics))
print(json.dumps(Tokenizer.from_folder(Path(sys.argv[1])).tokenize(text).ids[0].tolist()))
"""


class Models:
    """Paths of the models. folder: of the stand-in and what is made of it; venvs: of the peers that convert."""

    def __init__(self, folder: Path = STAND_IN, venvs: Path = VENVS) -> None:
        self.folder, self.venvs = folder, venvs

    def opt(self) -> Path:
        """The stand-in of opt-1.3b as safetensors in float16."""
        return stand_in(self.folder) / "safetensors"

    def opt_int8(self, mode: str = "int8") -> Path:
        return self._quantized(self.opt(), "opt", mode)

    def opt_ctranslate2(self) -> Path:
        return self.made("opt-ctranslate2", [self.peer("ctranslate2"), CONVERT / "to_ctranslate2.py", self.opt()])

    def opt_openvino(self) -> Path:
        return self.made("opt-openvino", [self.peer("openvino"), CONVERT / "to_openvino.py", self.opt()])

    def small(self) -> Path:
        """SmolLM2-135M-Instruct in Hugging Face's format, the exact values of its GGUF in float32."""
        return self.made("smollm2-float32", [sys.executable, CONVERT / "to_folder.py", resolve(None)])

    def small_int8(self, mode: str = "int8") -> Path:
        return self._quantized(self.small(), "smollm2-float32", mode)

    def small_q8_0(self) -> Path:
        return self.made("smollm2-float32-q8_0.gguf", [sys.executable, CONVERT / "to_gguf.py", self.small()])

    def own(self) -> Path:
        """The Python that runs this."""
        return Path(sys.executable)

    def peer(self, name: str) -> Path:
        """The Python of a peer. Raises Missing where it cannot be made."""
        return python_of(name, self.venvs)

    def ids(self, count: int) -> list[int]:
        """The first tokens of Python's own documentation, as pydoc has it: its topics in alphabetical order."""
        return self._ids[:count]

    @cached_property
    def _ids(self) -> list[int]:
        done = subprocess.run(
            [sys.executable, "-c", TOKENIZE, str(self.small())], check=True, capture_output=True, text=True
        )
        return json.loads(done.stdout)

    def _quantized(self, source: Path, model: str, mode: str) -> Path:
        """What `cutaway quantize` writes; made anew where it is of another layout."""
        name = f"{model}-{mode}"
        out = self.folder / name
        if out.exists():
            try:
                read_manifest(out)
            except BadCheckpoint:
                shutil.rmtree(out)
        return self.made(name, [sys.executable, "-c", QUANTIZE, source, mode])

    def made(self, name: str, command: list[str | Path]) -> Path:
        """The file or folder that a command makes of its last argument. Raises Missing where it fails."""
        out = self.folder / name
        if out.exists():
            return out
        print(f"making {out}", flush=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            part = Path(temporary) / name
            done = subprocess.run([*map(str, command), str(part)], check=False, capture_output=True, text=True)
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if line.strip()]
                raise Missing(f"{name} could not be made: {lines[-1] if lines else 'no word'}")
            part.rename(out)
        return out
