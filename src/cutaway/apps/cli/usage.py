"""A command line that no verb understands, in our order (found, expected, do this); Python's names as a verb's options.

It does not know what a verb does.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from cutaway.sample.names import INSTEAD, our_name

OTHER_VERBS = {"run": "generate", "complete": "generate", "ask": "chat", "list": "models", "ls": "models"}
Parameters = Mapping[str, Any]  # a verb's, by their names in Python, as typer parsed them


def usage(error: Exception) -> tuple[str, str, str]:
    """typer's message on a command line as found, expected, and what to do."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "cutaway"
    message = getattr(error, "format_message", error.__str__)().strip().rstrip(".")
    verbs = getattr(context.command, "commands", None) if context is not None else None
    if verbs:
        return _no_verb(message, list(verbs))
    see = f"see {path} --help"
    wrong = re.fullmatch(r"Invalid value for '(\S+)': Input should be ([^,]+).*", message)  # of a number
    if wrong:
        return f"a wrong value for {wrong[1]}", wrong[2], see
    option = str(getattr(error, "option_name", ""))
    if option.startswith("-") and not option.startswith("--"):
        see += ", and put -- before a text that begins with a dash"
    elif option and context is not None and message.startswith("No such option"):
        return _no_option(option, parameters_of(context.command), see)
    line = "" if context is None else " ".join(context.command.get_usage(context).split()).removeprefix("Usage: ")
    line = re.sub(r"[{}]", "", line)  # around what is required
    extra = re.fullmatch(r"Got unexpected extra argument\(s\) \((.*)\)", message)
    if extra:
        return f"an argument too many: {extra[1]}", line, f"put a text of several words in quotes, or {see}"
    return message[:1].lower() + message[1:], line or "an option that is complete", see


def _no_verb(message: str, verbs: list[str]) -> tuple[str, str, str]:
    found, do = message[:1].lower() + message[1:], "see cutaway --help"
    called = re.fullmatch(r"No such command '(.*?)'.*", message)
    if called:
        word, found = called[1], f"no such command '{called[1]}'"
        begins = [verb for verb in verbs if word and verb.startswith(word)]
        near = begins or [OTHER_VERBS.get(word, "")] * (word in OTHER_VERBS) or get_close_matches(word, verbs, 1, 0.6)
        do = f"did you mean {near[0]}? See cutaway --help" if near else do
    return found, f"one of the verbs {', '.join(verbs)}", do


def _no_option(option: str, known: Parameters, see: str) -> tuple[str, str, str]:
    name, found = option.lstrip("-").replace("-", "_"), f"no such option: {option}"
    ours = our_name(name, known)
    if ours is not None and ours in known:
        spelled = known[ours].opts[0]
        return found, f"{spelled}, its name here", f"pass {spelled}, or {see}"
    if name in INSTEAD and "max_new_tokens" in known:
        expected, do = (as_options(text, known) for text in INSTEAD[name])
        return found, expected, f"{do}, or {see}"
    return found, "one of this verb's options", see


def parameters_of(command: Any) -> Parameters:
    """A verb's options by their names in Python."""
    return {each.name: each for each in command.params if each.opts[0].startswith("--")}


def as_options(text: str, known: Parameters) -> str:
    """A sentence about Python's arguments in the spelling of the options: top_p=0.9 is --top-p 0.9."""
    for name, each in known.items():
        option, off = each.opts[0], [*each.secondary_opts, f"no {each.opts[0]}"][0]
        if getattr(each, "is_flag", False):
            text = re.sub(rf"\b{name}=True\b", option, re.sub(rf"\b{name}=False\b", off, text))
        text = re.sub(rf"\b{name}=None\b", f"{option} none", text)
        text = re.sub(rf'\b{name}=\["([^"]*)"\]', rf'{option} "\1"', text)
        text = re.sub(rf"(?<![\w.-]){name}=(?:'([\w./-]+)')?", rf"{option} \1", text)
        if "_" in name:  # one word may be English, not a name
            text = re.sub(rf"(?<![\w.-]){name}\b", option, text)
    if "no_special_tokens" in known:
        text = text.replace("add_special_tokens=False", "--no-special-tokens")
    return text
