"""The command `cutaway`: its verbs in the order of the data flow, and the dispatch to one.

It does not know what a verb does: each is a file of this folder, and imports heavy modules when it runs.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer
import typer.main

from cutaway.apps.cli.exit_codes import guarded
from cutaway.apps.cli.usage import Parameters, as_options, parameters_of

# each a file here, and a function of that name, with _ for -
VERBS = (
    "tokens", "model", "trace", "lens", "attribute", "heads", "gradients", "effect", "patch", "ablate", "steer",
    "generate", "chat", "tour", "serve", "compare", "perplexity", "check", "quantize", "check-files", "models",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (None: this process's own) and return its exit code.

    0: done, or the reader of a pipe closed it (`cutaway generate … | head -1`); 2: bad input, one line on stderr;
    130: Ctrl-C; 1: a bug of ours. `--debug` shows the traceback of any of them.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _run(args), debug="--debug" in args, spell=lambda text: as_options(text, _options(args)))


def _run(args: list[str]) -> int:
    command = typer.main.get_command(_app(args))
    try:
        # not command.main(): it would catch Ctrl-C and print a line of its own
        with command.make_context("cutaway", args or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as end:  # --help, --version
        return end.exit_code
    return 0


def _app(args: list[str]) -> typer.Typer:
    """All verbs, or only the one that is called: the others need not be imported."""
    # rich would draw boxes around the help, and take 0.2 s to import
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(cutaway)
    for verb in args[:1] if args and args[0] in VERBS else VERBS:
        name = verb.replace("-", "_")
        app.command(verb)(getattr(import_module(f"cutaway.apps.cli.{name}"), name))
    return app


def _options(args: list[str]) -> Parameters:
    """Those of the verb that is called."""
    command = typer.main.get_command(_app(args))
    verb = getattr(command, "commands", {}).get(args[0] if args else "")
    return {} if verb is None else parameters_of(verb)


def _version(wanted: bool) -> None:
    if wanted:
        from cutaway import __version__

        print(f"cutaway {__version__}")
        raise typer.Exit


def cutaway(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Run any decoder language model on this machine, and see everything it does.

    Start with `cutaway tour "The sun rises in the"`: every stage from text to text, on the default model.
    """
