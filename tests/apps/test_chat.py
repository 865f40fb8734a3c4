"""`cutaway chat` with a scripted standard input: the history, its commands, what is refused, and Ctrl-C."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import cutaway as package
from cutaway.generating import ANSWER_TOKENS
from cutaway.sample.settings import NEW_TOKENS

from .conftest import Result, Run
from .test_exit_codes import COMMAND

NEW = ["--max-new-tokens", "5"]


@pytest.fixture
def talk(cutaway: Run, chatty: Path, monkeypatch: pytest.MonkeyPatch):
    def run(*lines: str, options: tuple[str, ...] = ()) -> Result:
        script = "".join(f"{line}\n" for line in lines).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(script)))
        return cutaway("chat", *NEW, *options, "--model", chatty)

    return run


def saved(path: Path) -> list[tuple[str, str]]:
    return [(each["role"], each["content"]) for each in json.loads(path.read_text(encoding="utf-8"))["messages"]]


def test_an_answer_reads_all_that_was_said_before(talk, chatty: Path, tmp_path: Path):
    lm, messages = package.load(chatty), []
    for question in ("the cat", "naïve dog"):
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": lm.chat(messages, max_new_tokens=5).text})
    done = talk("the cat", "naïve dog", f"/save {tmp_path / 'talk.json'}")
    answers = [message["content"] for message in messages[1::2]]
    assert done.code == 0 and done.out == "".join(f"{answer}\n(ended: length, 5 tokens)\n" for answer in answers)
    assert done.err == f"cutaway: wrote 4 messages to {tmp_path / 'talk.json'}.\n"
    assert saved(tmp_path / "talk.json") == [(each["role"], each["content"]) for each in messages]


def test_undo_and_system(talk, tmp_path: Path):
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    done = talk(
        "a", "b", "/undo", "/system Be brief.", "c", f"/save {one}", "/system", "/undo", "/undo", f"/save {two}"
    )
    assert done.code == 0 and done.out.count("ended:") == 3
    assert [role for role, _ in saved(one)] == ["system", "user", "assistant", "user", "assistant"]
    assert [text for role, text in saved(one) if role != "assistant"] == ["Be brief.", "a", "c"]
    assert saved(two) == []
    started = talk("c", f"/save {one}", options=("--system", "Be brief."))
    assert started.code == 0 and saved(one)[0] == ("system", "Be brief.")


def test_steps_help_json_and_a_text_that_begins_with_a_slash(talk, tmp_path: Path):
    done = talk("the cat", "/steps", "/help")
    assert done.out.count("\nstep ") + done.out.startswith("step ") == 5 and "the highest logit: token" in done.out
    assert max(map(len, done.out[done.out.index("step 0") :].splitlines())) <= 80
    assert all(f"\n{command}" in done.out for command in ("/system TEXT", "/undo", "/steps", "/save FILE", "/help"))
    data = json.loads(talk("the cat", options=("--json",)).out)
    assert data.keys() == {"text", "ids", "ended"} and data["ended"] == "length" and len(data["ids"]) == 5
    talk("//steps", f"/save {tmp_path / 'talk.json'}")
    assert saved(tmp_path / "talk.json")[0] == ("user", "/steps")


def test_what_cannot_be_done_is_one_line_and_the_conversation_goes_on(talk, tmp_path: Path):
    done = talk("/undo", "/steps", "/save", f"/save {tmp_path}", "/bogus", "x" * 20_000, "", "the cat")
    lines = done.err.splitlines()
    assert done.code == 0 and done.out.count("ended:") == 1 and len(lines) == 6
    parts = [
        "no question to take back",
        "no answer",
        "/save without a file",
        str(tmp_path),
        "/bogus",
        "the model's context",
    ]
    assert all(part in line for part, line in zip(parts, lines, strict=True))


def test_a_model_without_a_template_says_so(cutaway: Run, tiny_folder: Path):
    done = cutaway("chat", "--model", tiny_folder)
    assert (done.code, done.out) == (2, "") and "without a chat template" in done.err


def test_ctrl_c_ends_the_answer_alone(chatty: Path):
    command = [*COMMAND, "chat", "--max-new-tokens", "3000", "--model", str(chatty)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(b"the cat\n")
        process.stdin.flush()
        process.stdout.read(30)  # the answer has begun
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(b"/undo\n/undo\n", 60)
        assert process.returncode == 0 and out.endswith(b"\n(ended: Ctrl-C)\n")
        assert err.count(b"no question to take back") == 1  # the part that was written is part of the conversation


def test_the_help_tells_the_length_of_an_answer(cutaway: Run):
    help_text = " ".join(cutaway("chat", "--help").out.split())
    assert f"without a length {NEW_TOKENS}, and {ANSWER_TOKENS} in a chat" in help_text


@pytest.mark.real
@pytest.mark.xdist_group("real")
def test_the_default_model_answers(cutaway: Run):
    from transformers import PreTrainedTokenizerFast

    done = cutaway("generate", "--chat", "What is 2+2?", "--offline", "--json")
    text = json.loads(done.out)["texts"][0]
    assert done.code == 0 and "4" in text["text"] and text["ended"] == "eos"
    tokenizer = package.load(offline=True).tokenizer
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, **tokenizer.names)
    theirs.chat_template = tokenizer.chat_template
    messages = [{"role": "user", "content": "What is 2+2?"}]
    assert text["prompt"] == theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
