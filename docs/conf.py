"""The site: README, these pages, the results of bench/ and the docstrings of the public API, by Sphinx. `make docs`.

Sources lie where GitHub shows them, so links are rewritten here and not in them. It does not know what a page says.
"""

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

project, author = "cutaway", "cutaway's authors"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**.md", "bench/results/*.md"]
exclude_patterns = ["build", ".venv", ".versions", "src", "tests", "bench/results/peers.md"]
html_theme, html_title = "furo", "cutaway"
html_copy_source = False
smartquotes = False
default_role = "code"  # docstrings mark code with one backtick
myst_heading_anchors = 2
autodoc_typehints = "none"  # signatures have them as they are written
autodoc_member_order = "bysource"
suppress_warnings = ["myst.header"]  # pages of errors begin at ##
CONTENTS = {
    "Start": ["docs/from-transformers", "docs/from-transformer-lens", "docs/many-prompts"],
    "Reference": [
        *("docs/api", "docs/analyses", "docs/settings", "docs/vocabulary", "docs/files"),
        "docs/running",
    ],
    "Errors": ["docs/errors/*"],
    "Behind it": ["CONTRIBUTING", "CHANGELOG"],
    "Decisions": ["docs/decisions/*"],
    "Measured": ["bench/results/*"],
}
SPECIAL = re.compile(r"([*|_\\])")
ITEM = re.compile(r"(?:[a-z\\_]+(?:, )?)+: |[a-z\\_]+ = ")


def contents() -> str:
    """The site's contents, which README does not show elsewhere."""
    parts = [
        "\n".join([f"```{{toctree}}\n:hidden:\n:glob:\n:caption: {caption}\n", *(f"/{page}" for page in pages), "```"])
        for caption, pages in CONTENTS.items()
    ]
    return "\n\n" + "\n\n".join(parts)


def of_site(app: Any, page: str, source: list[str]) -> None:
    """A link to what is no page (a folder, code) becomes its text; README gets the contents."""
    folder = ROOT / Path(page).parent

    def kept(link: re.Match[str]) -> str:
        target = (folder / link[2].partition("#")[0]).resolve()
        page = target.with_suffix("").relative_to(ROOT).as_posix() if target.is_relative_to(ROOT) else ""
        if not target.exists() or target.suffix == ".ipynb" or page in app.env.found_docs:
            return link[0]  # a link that leads nowhere is Sphinx's to complain about
        return link[1]

    source[0] = re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)]+)\)", kept, source[0])
    if page == root_doc:
        source[0] += contents()


def as_written(_app: Any, _what: str, _name: str, _of: Any, _options: Any, lines: list[str]) -> None:
    """A docstring as plain text: `name: what it is` at a line's start begins an item, and the lines after it go on."""
    done: list[str] = []
    margin: int | None = None  # of the item that goes on
    for line in lines:
        parts = re.split(r"(`[^`]+`)", line)
        text = "".join(part if part.startswith("`") else SPECIAL.sub(r"\\\1", part) for part in parts).strip()
        indent = len(line) - len(line.lstrip())
        item = ITEM.match(text)
        if item and (indent <= margin if margin is not None else not done or not done[-1]):
            done += ["", f"- **{item[0].strip()}** {text[item.end() :]}"]
            margin = indent
        elif text and margin is not None:
            done.append(f"  {text}")
        else:
            done.append(text)
            margin = None
    lines[:] = done


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", of_site)
    app.connect("autodoc-process-docstring", as_written)
