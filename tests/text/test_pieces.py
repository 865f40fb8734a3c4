"""Tokens of ids, their mask, and the table that shows them. No tokenizer here."""

import json
import unicodedata
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutaway.ground.errors import BadArgument
from cutaway.text.pieces import Piece, Tokens
from cutaway.text.table import columns_of, visible


def piece(id: int, text: str, special: bool = False, padding: bool = False) -> Piece:
    return Piece(id, text, text.encode(), None, special, padding)


def test_one_row_of_ids_is_a_batch_of_one() -> None:
    tokens = Tokens.from_ids([2, 100, 101])
    assert tokens.ids.tolist() == [[2, 100, 101]]
    assert tokens.mask.tolist() == [[1, 1, 1]]
    assert tokens.positions.tolist() == [[0, 1, 2]]
    assert not tokens.padded


def test_positions_count_real_tokens_on_either_side_of_padding() -> None:
    tokens = Tokens.from_ids([[5, 6, 1, 1], [1, 1, 5, 6]], [[1, 1, 0, 0], [0, 0, 1, 1]])
    assert tokens.positions.tolist() == [[0, 1, -1, -1], [-1, -1, 0, 1]]
    assert tokens.lengths.tolist() == [2, 2]
    assert tokens.last.tolist() == [1, 3]
    assert tokens.padded


def test_a_mask_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(BadArgument, match=r"found a mask that is no tensor \(.*\); expected one number for each id"):
        Tokens.from_ids([[5, 6, 7]], [["a", "b", "c"]])


@pytest.mark.parametrize("mask", [[[1, 0, 1]], [[0, 0, 0]], [[1, 2, 1]], [[1, 1]], [[1, 1, 1], [1, 1, 1]]])
def test_a_mask_that_is_not_one_run_of_ones_a_text_is_refused(mask: list[list[int]]) -> None:
    with pytest.raises(BadArgument, match="mask"):
        Tokens.from_ids([[5, 6, 7]], mask)


def test_a_gap_in_the_mask_is_named_by_its_row() -> None:
    with pytest.raises(BadArgument) as caught:
        Tokens.from_ids([[5, 6, 7], [5, 6, 7]], torch.tensor([[1, 1, 1], [1, 0, 1]]))
    assert str(caught.value) == (
        "found row 1 of a mask with 2 ones, not in one run; expected one run of ones a text, and 0 on the padding "
        "beside it; put the padding on the left or the right of the text."
    )


NO_IDS = [[], [[1, 2], [3]], [-1], torch.tensor([0.5]), torch.tensor([True]), torch.tensor([[[1]]])]


@pytest.mark.parametrize("ids", NO_IDS)
def test_what_is_no_batch_of_ids_is_refused(ids: Any) -> None:
    with pytest.raises(BadArgument, match="id"):
        Tokens.from_ids(ids)


def test_the_table_shows_pieces_ids_mask_and_positions() -> None:
    row = (piece(2, "</s>", special=True), piece(100, "I"), piece(101, " like"), piece(1, "<pad>", True, True))
    tokens = Tokens.from_ids([[2, 100, 101, 1]], [[1, 1, 1, 0]], (row,))
    assert str(tokens) == (
        "text 1 of 1: 3 tokens + 1 padding; ⟨⟩ special\n"
        "piece    │ ⟨</s>⟩ │ I   │ ␣like │ ⟨<pad>⟩\n"
        "id       │ 2      │ 100 │ 101   │ 1\n"
        "mask     │ 1      │ 1   │ 1     │ 0\n"
        "position │ 0      │ 1   │ 2     │"
    )


def test_ids_without_a_text_have_a_table_too() -> None:
    assert str(Tokens.from_ids([7])) == "text 1 of 1: 1 token\nid       │ 7\nmask     │ 1\nposition │ 0"


@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=12), st.integers(24, 100))
def test_no_line_of_a_table_is_wider_than_asked(texts: list[str], width: int) -> None:
    row = tuple(piece(n * 1000, text.encode("utf-8", "replace").decode()) for n, text in enumerate(texts))
    table = Tokens.from_ids([[p.id for p in row]], None, (row,)).table(width)
    assert all(columns_of(line) <= width for line in table.split("\n"))


def test_a_table_too_narrow_for_a_cell_is_refused() -> None:
    with pytest.raises(BadArgument, match="23 columns"):
        Tokens.from_ids([7]).table(23)


def test_wide_characters_count_two_columns_and_combining_ones_none() -> None:
    assert [columns_of(text) for text in ("ab", "日本", "🙂", "e\u0301")] == [2, 4, 2, 1]
    lines = str(Tokens.from_ids([[1, 2]], None, ((piece(1, "日本"), piece(2, "a")),))).split("\n")
    assert lines[1:3] == ["piece    │ 日本 │ a", "id       │ 1    │ 2"]


def test_nothing_in_a_piece_is_hidden() -> None:
    assert visible(b" a\n\t\r") == "␣a↵⇥␍"
    assert visible("🙂".encode()[:2]) == "⟨F0·9F⟩"
    assert visible("a\u200b\x1b\u00a0".encode()) == "a⟨U+200B⟩⟨U+001B⟩⟨U+00A0⟩"


@given(st.binary(max_size=12))
def test_visible_bytes_print_on_one_line(data: bytes) -> None:
    assert not any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in visible(data))


def test_tokens_as_data_are_json() -> None:
    half = Piece(9, "\ufffd", b"\xe2", (0, 1))
    data = Tokens.from_ids([[9]], None, ((half,),)).as_data()
    assert json.loads(json.dumps(data)) == {
        "ids": [[9]],
        "mask": [[1]],
        "positions": [[0]],
        "pieces": [
            [
                {
                    "id": 9,
                    "text": "\ufffd",
                    "visible": "⟨E2⟩",
                    "bytes": "e2",
                    "span": [0, 1],
                    "special": False,
                    "padding": False,
                }
            ]
        ],
    }
    assert Tokens.from_ids([9]).as_data()["pieces"] is None
