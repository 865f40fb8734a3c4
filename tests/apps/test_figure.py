"""--figure: what a verb found, drawn to a file beside what it prints; refused before any work where it could not be."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.apps.conftest import Run

VERBS = {
    "lens": ["the cat sat"],
    "attribute": ["the cat sat", "--by", "head"],
    "heads": ["the cat sat"],
    "patch": ["the cat sat", "the dog sat", "--answer", "t", "--by", "block,position"],
    "trace": ["the cat sat", "--sites", "blocks.0.attn.pattern", "--sites", "blocks.*.resid_post"],
    "compare": ["the cat sat"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_draws_what_it_prints(cutaway: Run, tiny_folder: Path, tmp_path: Path, verb: str):
    path = tmp_path / "out.svg"
    plain = cutaway(verb, *VERBS[verb], "--model", tiny_folder)
    done = cutaway(verb, *VERBS[verb], "--model", tiny_folder, "--figure", path)
    assert done.code == 0 and done.out == plain.out, done.err
    assert f"drew {path}." in done.err and list(tmp_path.iterdir()) == [path]
    ElementTree.parse(path)


def test_a_figure_of_another_kind_is_refused_before_the_model_is_read(cutaway: Run, tmp_path: Path):
    done = cutaway("lens", "a text", "--model", tmp_path / "missing", "--figure", "out.gif")
    assert done.code == 2 and "the figure out.gif" in done.err and ".svg, .pdf or .png" in done.err
    done = cutaway("trace", "a text", "--plan", "--model", tmp_path / "missing", "--figure", "out.svg")
    assert done.code == 2 and "--figure with --plan" in done.err
