"""Text laid out in 80 columns: tables, cells cut to a width, bars, and lines whose parts have a style.

It does not know what the words mean, and prints nothing.
"""

from collections.abc import Iterable, Sequence
from textwrap import wrap

from torch import Tensor

from cutaway.text.table import columns_of, cut

WIDTH = 80
# Text, or text and its style in words: "bold green", "dim", "rgb(255,0,0)", "black on rgb(255,170,50)".
Part = str | tuple[str, str]
Line = Sequence[Part]


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """One line a row, two spaces between columns; the columns numbered in `right` are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def fit(text: str, width: int, right: bool = False) -> str:
    """The text in exactly so many columns, the last a space, cut with an ellipsis; wide characters take two."""
    text = cut(text, width - 1)
    return " " * (width - 1 - columns_of(text)) + text + " " if right else text + " " * (width - columns_of(text))


def bar(share: float, width: int) -> str:
    """A bar of eighths of a column."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    return ("█" * (eighths // 8) + (" ▏▎▍▌▋▊▉"[eighths % 8] if eighths % 8 else "")).ljust(width)


def rule(*title: Part) -> Line:
    """The title, and a line from there to the last column."""
    used = columns_of(plain([[*title]])) + 1
    return [*title, (" " + "─" * (WIDTH - used), "dim")]


def dim(text: str) -> Line:
    """A dimmed line."""
    return [(text, "dim")]


def unbroken(words: Iterable[str]) -> list[str]:
    """Lines of at most 80 columns, broken between two of the words and not at the spaces in them."""
    joint = " ".join(word.replace(" ", "\0") for word in words)
    return [line.replace("\0", " ") for line in wrap(joint, WIDTH, subsequent_indent="  ", break_on_hyphens=False)]


def paragraph(text: str, style: str = "") -> list[Line]:
    """Prose, broken between words."""
    return [[(line, style)] for line in wrap(text, WIDTH)]


def plain(lines: Iterable[Line]) -> str:
    """The lines without their styles."""
    return "\n".join("".join(part if isinstance(part, str) else part[0] for part in line) for line in lines)


def dtype_name(value: Tensor) -> str:
    """float32 for torch.float32."""
    return str(value.dtype).removeprefix("torch.")


def plus_minus(mean: Tensor, spread: Tensor | None = None, at: int | tuple[int, ...] = ()) -> str:
    """A signed number, with its spread where there is one. at: the index of both."""
    apart = "" if spread is None else f" ± {float(spread[at]):.3f}"
    return f"{float(mean[at]):+.3f}{apart}"


def percent(probability: Tensor, spread: Tensor | None, at: tuple[int, ...]) -> str:
    """A probability in percent, with its spread where there is one."""
    return f"{float(probability):.0%}" + ("" if spread is None else f"±{float(spread[at]) * 100:.0f}")
