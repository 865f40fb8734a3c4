"""Writes docs/settings.md: each setting of generation with its default, its values and what it does, from the tables.

It does not know what a setting does: sample/settings.py says it. `python -m tests.rules.settings > docs/settings.md`.
"""

from dataclasses import fields

from cutaway.sample.names import RENAMED
from cutaway.sample.settings import ABOUT, Sampling

START = """# Settings of generate

Written from `sample/settings.py` by `python -m tests.rules.settings > docs/settings.md`.

`lm.generate`, `lm.stream`, `lm.chat`, `cutaway generate` and `cutaway chat` take them, under transformers' names. They
act in this order. Where you say nothing, the model's generation_config.json does (`lm.sampling`); where that says
nothing either, the default. `print(out.steps[3].table())` shows what each did to a token."""
OPTIONS = {"do_sample": "`--sample`, or `--greedy` for False"}


def section(name: str, default: object) -> str:
    """One setting: default, values, option, effect, and its names elsewhere."""
    about = ABOUT[name]
    option = OPTIONS.get(name, f"`--{name.replace('_', '-')}`")
    others = sorted(theirs for theirs, ours in RENAMED.items() if ours == name)
    elsewhere = f"\n\nElsewhere called {', '.join(f'`{other}`' for other in others)}." if others else ""
    effect = about.effect[0].upper() + about.effect[1:]
    return f"## {name}\n\nDefault `{default!r}`; {about.limits}. On the command line {option}.\n\n{effect}{elsewhere}"


def page() -> str:
    """The whole file."""
    return "\n\n".join([START, *(section(each.name, each.default) for each in fields(Sampling))]) + "\n"


if __name__ == "__main__":
    print(page(), end="")
