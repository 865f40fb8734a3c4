"""What a command imports on its way to the first token, in processes of their own: nothing that it can do without."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cutaway.text.tokenizer import Tokenizer
from tests.text.conftest import as_transformers

from .conftest import Run

HEAVY = ("transformers", "huggingface_hub", "gguf", "jinja2", "rich", "sympy", "pandas", "torch._dynamo", "requests")
GENERATE = """
import gc, json, sys
from cutaway.apps.cli.main import main
code = main(sys.argv[1:])
print(json.dumps({"code": code, "modules": list(sys.modules), "frozen": gc.get_freeze_count(), "gc": gc.isenabled()}))
"""


def after_generate(*options: str) -> tuple[str, dict]:
    """What `cutaway generate` printed in a process of its own, and what that process had imported."""
    command = [sys.executable, "-c", GENERATE, "generate", "the cat", "--max-new-tokens", "2", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *lines, facts = done.stdout.splitlines()
    return "\n".join(lines), json.loads(facts)


def imported(facts: dict) -> list[str]:
    assert facts["code"] == 0 and "torch" in facts["modules"] and "cutaway.lm" in facts["modules"]  # it did run
    return [name for name in HEAVY if name in facts["modules"]]


@pytest.mark.parametrize("others", [{}, {"special_tokens_map.json": "{}", "chat_template.jinja": "{{ messages }}"}])
def test_a_folder_that_cutaway_wrote_needs_no_transformers(
    cutaway: Run, tiny_folder: Path, tmp_path: Path, others: dict[str, str]
):
    """Nor where the model's own folder needs it, for files beside its tokenizer.json."""
    source, out = Path(shutil.copytree(tiny_folder, tmp_path / "source")), tmp_path / "out"
    for name, content in others.items():
        (source / name).write_text(content, encoding="utf-8")
    assert ("transformers" in after_generate("--model", str(source))[1]["modules"]) == bool(others)
    assert cutaway("quantize", source, out).code == 0
    text, facts = after_generate("--model", str(out))
    assert text.startswith("the cat") and imported(facts) == []
    as_transformers(out, ["the cat <|end|> naïve 🙂", " two  spaces"])
    ours, theirs = Tokenizer.from_folder(out), Tokenizer.from_folder(source)
    assert ours.backend.to_str() == theirs.backend.to_str() and ours.names == theirs.names
    assert ours.chat_template == theirs.chat_template == others.get("chat_template.jinja")
    assert cutaway("check-files", out).code == 0


@pytest.mark.real
@pytest.mark.xdist_group("real")
def test_the_default_model_needs_no_transformers():
    text, facts = after_generate()
    assert text.startswith("the cat") and imported(facts) == []


def test_torch_is_imported_without_garbage_collection_which_goes_on_after_it(tiny_folder: Path):
    """The objects of the import are frozen: its own are far more than 100,000."""
    facts = after_generate("--model", str(tiny_folder))[1]
    assert facts["gc"] and facts["frozen"] > 100_000


def test_a_token_is_written_before_the_next_is_chosen(tiny_folder: Path):
    """The first of thousands of tokens comes out of the process while the last is far from chosen."""
    command = [sys.executable, "-c", GENERATE, "generate", "the cat", "--max-new-tokens", "4000"]
    with subprocess.Popen([*command, "--model", str(tiny_folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        got = b""
        while len(got) <= len("the cat"):
            got += os.read(process.stdout.fileno(), 1 << 16)
        running = process.poll() is None
        process.kill()
    assert got.startswith(b"the cat") and running and len(got) < 2000
