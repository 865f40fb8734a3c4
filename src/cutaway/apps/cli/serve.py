"""`cutaway serve`: the page, for browsers of this machine.

It loads the model, prints one address and opens it; it does not know what the page asks.
"""

import json
import webbrowser
from contextlib import suppress
from typing import Annotated

import typer

from cutaway.apps.cli.common import Options, busy, verb

Port = Annotated[int, typer.Option(metavar="N", help="Where to listen; 0 for any free port.")]
Host = Annotated[
    str, typer.Option(metavar="NAME", help="Where to listen; other than 127.0.0.1, the address has a token.")
]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Print the address only.")]


@verb
def serve(options: Options, port: Port = 8377, host: Host = "127.0.0.1", no_browser: NoBrowser = False) -> None:
    """Serve the page: every value of the model, in the browser.

    Prints one address and opens it; Ctrl-C ends it. Wants `pip install "cutaway[web]"`.
    """
    from cutaway.apps.server.serving import listening, require_installed, server

    require_installed()
    with listening(host, port) as listener:
        with busy("starting") as report:
            lm = options.load(report)
            from cutaway.apps.server.app import application
            from cutaway.apps.server.guard import Guard
            from cutaway.apps.server.session import Limits, Served

            guard = Guard.of(host, listener.getsockname()[1])
            served = Served(lm, _spelled(options), Limits())
            app = application(served, guard)
        with suppress(KeyboardInterrupt):  # Ctrl-C is how it ends
            server(app, served.limits, lambda: _show(guard.url, options.as_json, not no_browser)).run([listener])


def _show(url: str, as_json: bool, browser: bool) -> None:
    print(json.dumps({"url": url}) if as_json else url, flush=True)
    if browser:
        with suppress(webbrowser.Error):
            webbrowser.open(url)


def _spelled(options: Options) -> str:
    """What cutaway.load was given, as Python spells it."""
    quantize = {None: [], "none": ["quantize=None"]}.get(options.quantize, [f"quantize={options.quantize!r}"])
    model = [] if options.model is None else [repr(options.model)]
    more = [f"{name}={value!r}" for name in ("dtype", "device") if (value := getattr(options, name)) is not None]
    return ", ".join([*model, *quantize, *more])
