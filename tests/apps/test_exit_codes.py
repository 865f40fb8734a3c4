"""How a command ends: Ctrl-C, a closed pipe, a full disk, a bug; in real processes where only those can show it."""

import errno
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from cutaway.apps.cli import exit_codes
from cutaway.apps.cli.exit_codes import guarded
from cutaway.ground.errors import BadText

from .conftest import CONTEXT, Run

# a shell's background job has Ctrl-C switched off, and so would all that it starts
LISTENING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
COMMAND = [sys.executable, "-c", f"{LISTENING}; import sys; from cutaway.apps.cli.main import main; sys.exit(main())"]
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def endless(folder: Path) -> list[str]:
    """A command that writes thousands of tokens, which takes seconds."""
    return [*COMMAND, "generate", "the cat", "--max-new-tokens", str(CONTEXT - 10), "--model", str(folder)]


def test_ctrl_c_in_the_middle_of_a_stream(tiny_folder: Path):
    with subprocess.Popen(endless(tiny_folder), **PIPES) as process:
        assert process.stdout is not None and process.stderr is not None
        begun = process.stdout.read(30)  # some tokens have come
        process.send_signal(signal.SIGINT)
        rest, said = process.stdout.read(), process.stderr.read()
        assert process.wait(10) == 130
    assert begun.startswith(b"the cat") and (begun + rest).endswith(b"\n") and said == b""


def test_a_closed_pipe_is_quiet(tiny_folder: Path):
    with subprocess.Popen(endless(tiny_folder), **PIPES) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(20).startswith(b"the cat")
        process.stdout.close()
        assert process.wait(10) == 0 and process.stderr.read() == b""


def test_a_pipe_closed_on_rich_is_quiet_too():
    code = """if True:
        import sys
        from rich.console import Console
        from cutaway.apps.cli.exit_codes import guarded
        sys.exit(guarded(lambda: [Console().print(n) for n in range(100_000)] and 0, debug=False))"""
    with subprocess.Popen([sys.executable, "-c", code], **PIPES) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(2) == b"0\n"
        process.stdout.close()
        assert process.wait(10) == 0 and process.stderr.read() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_under_the_output(tiny_folder: Path):
    with open("/dev/full", "w") as full:
        command = [*COMMAND, "models", "--model", str(tiny_folder)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    said = b"cutaway: found a full disk; expected space to write; free some space and run it again.\n"
    assert (done.returncode, done.stderr) == (2, said)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a.bin"),
            "found a full disk at a.bin; expected space to write",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "a.bin"),
            "found permission denied at a.bin; expected to be",
        ),
        (MemoryError(), "found too little memory for this run; expected memory"),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"), "found too little memory"),
    ],
)
def test_what_the_system_refuses(cutaway: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str):
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("cutaway.weights.hub.resolve", fail)
    done = cutaway("tokens", "hi", "--model", "x")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1) and done.err.startswith(f"cutaway: {said}")


def test_a_bug_is_one_line_and_exit_code_1(cutaway: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cutaway.weights.hub.resolve", lambda *args, **kwargs: 1 / 0)
    done = cutaway("tokens", "hi")
    said = (
        "cutaway: a bug: ZeroDivisionError: division by zero; run it again with --debug, and report what it prints.\n"
    )
    assert done == (1, "", said)
    debugged = cutaway("tokens", "hi", "--debug")
    assert debugged.code == 1 and debugged.err.startswith("Traceback") and debugged.err.endswith(said)


def test_debug_shows_the_traceback_of_a_users_error(cutaway: Run):
    done = cutaway("tokens", "", "--debug")
    assert (
        done.code == 2 and "Traceback" in done.err and done.err.splitlines()[-1].startswith("cutaway: found an empty")
    )


def test_an_error_of_several_lines_is_said_in_one(capsys: pytest.CaptureFixture[str]):
    def fail() -> int:
        raise BadText("a text\nof two lines", "one", "join them")

    assert guarded(fail, debug=False) == 2
    assert capsys.readouterr().err == "cutaway: found a text of two lines; expected one; join them.\n"


def test_interrupted_before_anything_is_written(capsys: pytest.CaptureFixture[str]):
    def interrupt() -> int:
        raise KeyboardInterrupt

    assert guarded(interrupt, debug=False) == exit_codes.INTERRUPTED == 130
    assert capsys.readouterr() == ("", "")


def test_a_stream_that_knows_only_ascii_gets_codes_instead_of_a_crash(tiny_folder: Path):
    command = [*COMMAND, "models", "--model", str(tiny_folder / "é")]
    done = subprocess.run(command, capture_output=True, env={"PYTHONIOENCODING": "ascii"}, check=False)
    assert done.returncode == 2 and b"a bug" not in done.stderr and b"\\" in done.stderr


def test_a_warning_is_one_line_without_where_it_is_in_the_code(capsys: pytest.CaptureFixture[str]):
    def work() -> int:
        warnings.warn(
            "an op is slow; pass do_sample=False\n  or not. (Triggered internally at /pytorch/a.cpp:12.)", stacklevel=1
        )
        return 0

    assert guarded(work, debug=False, spell=lambda text: text.replace("do_sample=False", "--greedy")) == 0
    assert capsys.readouterr().err == "cutaway: an op is slow; pass --greedy or not.\n"
