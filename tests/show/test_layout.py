"""Lines of 80 columns: cells in exactly their width, rules to the border, words that stay whole."""

import pytest
from rich.cells import cell_len

from cutaway.show.layout import bar, columns, fit, plain, rule, unbroken


@pytest.mark.parametrize("text", ["", "word", "a long word", "naïve café", "日本語の文章", "🙂🙂🙂🙂"])
@pytest.mark.parametrize("right", [False, True])
def test_a_cell_has_its_width_and_a_space_behind_it(text: str, right: bool):
    cell = fit(text, 8, right)
    assert cell_len(cell) == 8 and cell.endswith(" ")
    assert text in cell or "…" in cell


def test_lines_reach_the_border_and_no_further():
    assert cell_len(plain([rule(("日本", "bold"), " a title ")])) == 80
    terms = [f"a term {n}" for n in range(20)]
    lines = unbroken(terms)
    assert max(map(len, lines)) <= 80 and all(any(term in line for line in lines) for term in terms)
    assert [bar(share, 2) for share in (-1.0, 0.0, 0.5, 2.0)] == ["  ", "  ", "█ ", "██"]
    assert columns([("a", "1"), ("word", "22")], right=(1,)) == "a      1\nword  22"
