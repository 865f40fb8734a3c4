"""The machine of the caller: a locale with decimal commas, a home folder that is missing or cannot be written."""

import locale
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from torch import Tensor

from cutaway.ground.errors import DownloadFailed
from cutaway.weights import default_model
from tests.world.facts import TEXTS, assert_same, opened

COMMAS = ("de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "fr_FR.utf8")
MAIN = "import sys; from cutaway.apps.cli.main import main; sys.exit(main(sys.argv[1:]))"


def command_line(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, without this one's caches."""
    caches = ("HOME", "CUTAWAY_CACHE", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE")
    own = {name: value for name, value in os.environ.items() if name not in caches}
    command = [sys.executable, "-c", MAIN, *map(str, words)]
    return subprocess.run(command, env=own | environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_locale_with_decimal_commas_changes_no_bit(model: Path, usual: dict[str, dict[str, Tensor]]):
    before = locale.setlocale(locale.LC_ALL)
    for name in COMMAS:
        try:
            locale.setlocale(locale.LC_ALL, name)
            break
        except locale.Error:
            continue
    else:
        pytest.skip(f"none of {', '.join(COMMAS)} on this machine")
    try:
        assert locale.localeconv()["decimal_point"] == ","
        lm = opened(model, "int8")
        assert_same(lm, usual["int8"])
        assert lm.trace(TEXTS, "logits", budget="1.5 MB").plan.bytes < 1.5e6
    finally:
        locale.setlocale(locale.LC_ALL, before)


@pytest.mark.parametrize("home", ["/dev/null/home", None], ids=["cannot be made", "not set"])
def test_a_local_folder_needs_no_home(home: str | None, model: Path):
    done = command_line(
        "generate", "the cat", "--model", model, "--max-new-tokens", 3, **({"HOME": home} if home else {})
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("the cat")


def test_the_default_model_without_a_home_that_can_be_written_is_one_sentence():
    done = command_line("model", HOME="/dev/null/home")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "set CUTAWAY_CACHE to a folder that you may write to" in done.stderr


def test_a_user_without_a_home_is_told_where_to_keep_the_default_model(monkeypatch: pytest.MonkeyPatch):
    for name in ("CUTAWAY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", Mock(side_effect=RuntimeError("Could not determine home directory.")))
    with pytest.raises(DownloadFailed, match=r"no home folder of this user.*set CUTAWAY_CACHE"):
        default_model.cache_dir()
