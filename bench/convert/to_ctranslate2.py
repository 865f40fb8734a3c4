"""A folder of OPT in Hugging Face's format → CTranslate2's int8. Ids need no text: the vocabulary names them <id>.

Runs in the venv of CTranslate2.
"""

import json
import sys
import tempfile
from pathlib import Path

from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

source, out = (Path(arg) for arg in sys.argv[1:])
size = json.loads((source / "config.json").read_text())["vocab_size"]
names = {f"<{token}>": token for token in range(size)}
with tempfile.TemporaryDirectory() as folder:
    for file in source.iterdir():
        (Path(folder) / file.name).symlink_to(file.resolve())
    special = {"bos_token": "<2>", "eos_token": "<2>", "pad_token": "<1>", "unk_token": "<3>"}
    tokenizer = Tokenizer(models.WordLevel(names, unk_token="<3>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    TransformersConverter(folder, load_as_float16=True, low_cpu_mem_usage=True).convert(str(out), quantization="int8")
