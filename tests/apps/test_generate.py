"""`cutaway generate`: what is streamed is what was generated, why it ended, and how each token was chosen."""

import json
from pathlib import Path

import pytest

import cutaway as package
from cutaway.apps.cli import terminal

from .conftest import CONTEXT, Run, set_config


@pytest.fixture(scope="module")
def lm(tiny_folder: Path) -> package.LM:
    return package.load(tiny_folder)


def test_one_text_is_streamed_whole(cutaway: Run, tiny_folder: Path, lm: package.LM):
    done = cutaway("generate", "the cat", "--max-new-tokens", 12, "--model", tiny_folder)
    assert (done.code, done.err) == (0, "")
    assert done.out == str(lm.generate("the cat", max_new_tokens=12)) + "\n"


def test_several_texts_keep_their_order(cutaway: Run, tiny_folder: Path, lm: package.LM):
    prompts = ["the cat sat on", "a", "the dog"]
    done = cutaway("generate", *prompts, "--max-length", 16, "--model", tiny_folder)
    assert done.code == 0
    assert done.out == str(lm.generate(prompts, max_length=16)) + "\n"


def test_json_holds_the_run(cutaway: Run, tiny_folder: Path, lm: package.LM):
    settings = ["--sample", "--steps", "--temperature", 0.7, "--top-p", 0.8, "--top-k", 0, "--seed", 5]
    done = cutaway("generate", "the cat", *settings, "--max-new-tokens", 4, "--json", "--model", tiny_folder)
    expected = lm.generate("the cat", do_sample=True, temperature=0.7, top_p=0.8, top_k=0, seed=5, max_new_tokens=4)
    data = json.loads(done.out)
    assert done.err == "" and data["model"] == str(tiny_folder)
    text = {"prompt": "the cat", "text": expected.text, "ids": list(expected.new_ids[0]), "ended": "length"}
    assert data["texts"] == [text]
    assert data["settings"] == {**expected.settings.as_data()}
    assert [step["texts"][0]["u"] for step in data["steps"]] == [float(step.u[0]) for step in expected.steps]


def test_json_is_small_where_no_steps_are_asked_for(cutaway: Run, tiny_folder: Path):
    done = cutaway("generate", "the cat", "--max-new-tokens", 50, "--json", "--model", tiny_folder)
    assert json.loads(done.out).keys() == {"model", "settings", "texts"} and len(done.out) < 2000


def test_the_text_alone(cutaway: Run, tiny_folder: Path, lm: package.LM):
    asked = ["--max-new-tokens", 5, "--top-k", 3, "--text", "--model", tiny_folder]
    one, two = (lm.generate(text, max_new_tokens=5).text for text in ("the cat", "a"))
    assert cutaway("generate", "the cat", *asked) == (0, f"{one}\n", "")
    assert cutaway("generate", "the cat", "a", *asked) == (0, f"{one}\n{two}\n", "")


def test_a_text_answered_by_the_chat_template(cutaway: Run, chatty: Path):
    lm = package.load(chatty)
    out = lm.chat("the cat", max_new_tokens=5)
    asked = ["--max-new-tokens", 5, "--model", chatty]
    assert cutaway("generate", "--chat", "the cat", *asked) == (0, f"{out.text}\n(ended: length, 5 tokens)\n", "")
    data = json.loads(cutaway("generate", "--chat", "the cat", "--json", *asked).out)
    assert data["texts"][0]["prompt"] == out.prompt_text == "<s>user: the cat\nassistant:"
    bare = cutaway("generate", "the cat", *asked)
    assert bare.err.startswith("cutaway: this model was trained on a chat template: with --chat")
    assert bare.err.count("\n") == 1 and bare.out == f"{lm.generate('the cat', max_new_tokens=5)}\n"
    assert cutaway("generate", "<s>user: the cat", "--no-special-tokens", *asked).err == ""


def test_a_drawn_seed_is_told_and_repeats_the_run(cutaway: Run, tiny_folder: Path):
    asked = ["generate", "the cat", "--sample", "--max-new-tokens", 5, "--json", "--model", tiny_folder]
    first = json.loads(cutaway(*asked).out)
    second = json.loads(cutaway(*asked, "--seed", first["settings"]["seed"]).out)
    assert second["texts"] == first["texts"]


def test_steps_are_shown_after_the_text(cutaway: Run, tiny_folder: Path):
    done = cutaway("generate", "the cat", "a", "--max-new-tokens", 2, "--steps", "--model", tiny_folder)
    assert [line for line in done.out.splitlines() if line.startswith("step ")] == [
        f"step {step}, text {row}: greedy" for step in range(2) for row in range(2)
    ]
    assert max(map(len, done.out[done.out.index("step 0") :].splitlines())) <= 80


def test_stop_strings_may_be_repeated(cutaway: Run, tiny_folder: Path):
    free = json.loads(cutaway("generate", "the", "--max-new-tokens", 8, "--json", "--model", tiny_folder).out)
    text = free["texts"][0]["text"]
    stops = ["--stop-strings", "nowhere to be found", "--stop-strings", text[2:4]]
    data = json.loads(cutaway("generate", "the", *stops, "--json", "--model", tiny_folder).out)
    assert data["texts"][0]["ended"] == "stop" and text[2:4] in data["texts"][0]["text"]


def test_settings_of_no_effect_are_said(cutaway: Run, tiny_folder: Path, lm: package.LM):
    done = cutaway("generate", "a", "--top-p", 0.5, "--seed", 1, "--max-new-tokens", 3, "--model", tiny_folder)
    assert done.err == "cutaway: --top-p, --seed without --sample: no effect, the highest logit wins.\n"
    assert done.out == str(lm.generate("a", max_new_tokens=3)) + "\n"


def test_the_end_of_the_context_is_said(cutaway: Run, broken: Path):
    set_config(broken, max_position_embeddings=12)
    done = cutaway("generate", "the cat", "a", "--max-new-tokens", 50, "--model", broken)
    said = "cutaway: text {} ends here because it fills the model's context of 12 tokens.\n"
    assert done.code == 0 and done.err == said.format(1) + said.format(2)


def test_a_text_longer_than_the_context(cutaway: Run, tiny_folder: Path):
    done = cutaway("generate", "?!" * CONTEXT, "--model", tiny_folder)
    found = f"found a text of {2 * CONTEXT} tokens; expected at most {CONTEXT}, the model's context; shorten the text."
    assert done == (2, "", f"cutaway: {found}\n")


def test_a_terminal_sees_the_prompt_faint_and_obeys_no_token(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(terminal, "is_terminal", lambda stream: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert terminal.faint("I love") == "\x1b[2mI love\x1b[0m"
    assert terminal.shown("a\x1b[2J\tb\nc\x9b\r") == "a␛[2J\tb\nc�␍"
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.faint("I love") == "I love"
