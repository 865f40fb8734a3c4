"""Runs the notebooks of examples/ from top to bottom; as a program it stores them with their outputs.

`PYTHONPATH=. python -m tests.examples.notebooks [NAME...]` after a change. It does not judge what they show.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
SECONDS = 240  # of one cell
PYTHON = {"display_name": "Python 3", "language": "python", "name": "python3"}


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def executed(path: Path) -> NotebookNode:
    """The notebook with fresh outputs. Raises CellExecutionError at the first error."""
    notebook = read(path)
    here = {"metadata": {"path": EXAMPLES}}
    how = {"timeout": SECONDS, "kernel_name": "python3", "record_timing": False, "coalesce_streams": True}
    NotebookClient(notebook, resources=here, **how).execute()
    return notebook


def outputs(notebook: NotebookNode) -> Iterator[NotebookNode]:
    """Every output of every cell, in order."""
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def code(notebook: NotebookNode) -> list[str]:
    """The code cells but the first, which installs."""
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"][1:]


def store(path: Path) -> None:
    """Execute it and write it with its outputs, without what differs from one run to another."""
    notebook = executed(path)
    notebook.metadata = {"kernelspec": PYTHON, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.metadata, cell.id = {}, f"{path.stem}-{number}".replace("_", "-")
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for chosen in NOTEBOOKS:
        if not sys.argv[1:] or chosen.stem in sys.argv[1:]:
            store(chosen)
            print(f"{chosen.name}: {chosen.stat().st_size:,} bytes")
