"""`cutaway chat`: a conversation with the model, by its chat template.

It reads lines and prints answers; it does not know how a token is chosen, nor what the template writes.
"""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutaway.apps.cli.common import busy, decoded, note, print_json, verb
from cutaway.apps.cli.streaming import SettingsOptions, print_texts
from cutaway.apps.cli.terminal import faint, is_terminal
from cutaway.ground.errors import BadArgument, CutawayError
from cutaway.ground.writing import whole_file

if TYPE_CHECKING:
    from cutaway.lm import LM
    from cutaway.sample.step import Step

System = Annotated[str | None, typer.Option(metavar="TEXT", help="The first message, which says how to answer.")]
HELP = """\
/system TEXT   how to answer, from here on; without TEXT, no more
/undo          forget the last question and its answer
/steps         how each token of the last answer was chosen
/save FILE     write the messages as JSON
/help          this list
Ctrl-C ends an answer, Ctrl-D the conversation. // at the beginning of a line
stands for a text that begins with /."""


@verb
def chat(
    options: SettingsOptions,
    system: System = None,
) -> None:
    """Talk with the model. A line is a message, and /help lists what else there is.

    Piped, each line of standard input is a message. With --json, an answer is one line of JSON.
    """
    with busy("starting") as report:
        settings = options.settings(answer=True)
        lm = options.load(report)
        lm.chat_prompt("Hello")  # raises now where the model has no chat template
    talk = Conversation(lm, settings, options.as_json)
    if system:
        talk.system(system)
    if is_terminal(sys.stdin):
        print(faint(f"{lm.name}. /help lists the commands, Ctrl-D ends."))
    while (line := _next_line()) is not None:
        if line.strip():
            _answered(talk, line)


def _answered(talk: "Conversation", line: str) -> None:
    """One line of the user, done; what cannot be done is said in one line, and the conversation goes on."""
    word, _, rest = line.strip().partition(" ")
    commands: dict[str, Callable[[str], None]] = {
        "/system": talk.system, "/undo": talk.undo, "/steps": talk.steps, "/save": talk.save,
        "/help": lambda _: print(HELP),
    }  # fmt: skip
    try:
        if word in commands:
            commands[word](rest.strip())
        elif word.startswith("/") and not word.startswith("//"):
            raise BadArgument(f"the command {word}", f"one of {', '.join(commands)}", "see /help")
        else:
            talk.say(line[1:] if word.startswith("//") else line)
    except CutawayError as error:
        note(str(error))
    except KeyboardInterrupt:
        print(faint("(ended: Ctrl-C)"))


class Conversation:
    """The messages so far, and the steps of the last answer."""

    def __init__(self, lm: "LM", settings: dict[str, Any], as_json: bool) -> None:
        self.lm, self.settings, self.as_json = lm, settings, as_json
        self.messages: list[dict[str, str]] = []
        self.last: list[Step] = []

    def say(self, text: str) -> None:
        """The answer to one more message. After Ctrl-C what was written of it stays; after an error nothing does."""
        asked = [*self.messages, {"role": "user", "content": text}]
        tokens = self.lm.chat_prompt(asked)
        stream = self.lm.stream(tokens, **self.settings)
        self.last = []
        try:
            for step in stream if self.as_json else print_texts([""], stream, [""]):
                self.last.append(step)
        finally:
            if self.last:
                answer = "".join(step.text[0] for step in self.last)
                self.messages = [*asked, {"role": "assistant", "content": answer}]
        if self.as_json:
            ids = [int(step.ids[0]) for step in self.last]
            print_json({"text": self.messages[-1]["content"], "ids": ids, "ended": self.last[-1].ended[0]})
            sys.stdout.flush()

    def system(self, text: str) -> None:
        """The system message, first of all, replaced or removed."""
        rest = [message for message in self.messages if message["role"] != "system"]
        self.messages = [{"role": "system", "content": text}, *rest] if text else rest

    def undo(self, _: str = "") -> None:
        """The conversation without its last question and answer."""
        if not self.messages or self.messages[-1]["role"] == "system":
            raise BadArgument("no question to take back", "one before /undo", "ask something")
        self.messages, self.last = self.messages[:-2], []

    def steps(self, _: str = "") -> None:
        """How each token of the last answer was chosen."""
        if not self.last:
            raise BadArgument("no answer to show the steps of", "one before /steps", "ask something")
        print("\n\n".join(step.table() for step in self.last))

    def save(self, path: str) -> None:
        """The messages and how they were answered, as JSON."""
        if not path:
            raise BadArgument("/save without a file", "its name", "write for example /save talk.json")
        settings = self.last[-1].settings.as_data() if self.last else self.settings
        data = {"model": self.lm.name, "settings": settings, "messages": self.messages}
        with whole_file(Path(path).expanduser()) as unfinished:
            unfinished.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        note(f"wrote {len(self.messages)} messages to {path}.")


def _next_line() -> str | None:
    """The user's next line, None at the end of the input. Ctrl-C drops a line that is begun."""
    if not is_terminal(sys.stdin):
        line = b"" if sys.stdin is None else sys.stdin.buffer.readline()
        return decoded(line, "a line of standard input").rstrip("\r\n") if line else None
    with suppress(ImportError):
        import_module("readline")  # input() then edits lines
    while True:
        try:
            return input("> ")
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()
