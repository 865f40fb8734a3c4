"""Finding: the result of an analysis: data on named axes, its table, its rows for pandas, and what it is drawn from.

It holds numbers and words, never a model, so it pickles and copies by itself. It does not know which analysis it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from typing import Any

from cutaway.ground.errors import BadArgument
from cutaway.show.faces import Faces
from cutaway.show.pictures import Picture

REPR = 600  # characters at most


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Finding(Faces):
    """What a question to a model gives. `print` it for the table that the command line prints, 80 columns at most.

    model: the name of the one that was asked. notes: what was assumed, or what the table leaves out, a sentence each.
    """

    model: str = ""
    notes: tuple[str, ...] = ()

    @property
    def axes(self) -> Mapping[str, Sequence[str]]:
        """The axes of its values in their order: name → the label of each index."""
        return {}

    def to_dict(self) -> Any:
        """Everything as lists, dicts, strings and numbers: what `--json` prints."""
        raise NotImplementedError

    def records(self) -> list[dict[str, Any]]:
        """One flat dict for each number: the rows of `to_pandas`."""
        raise NotImplementedError

    def pictures(self) -> list[Picture]:
        """What it is drawn from; empty where text says all."""
        return []

    def to_pandas(self) -> Any:
        """`records` as a tidy pandas.DataFrame. Raises BadArgument where pandas is not installed."""
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            found, do = "no pandas in this Python", "install it with `pip install pandas`, or use .records()"
            raise BadArgument(found, "pandas, to make a DataFrame", do) from error
        return pandas.DataFrame(self.records())

    def __repr__(self) -> str:
        axes = " × ".join(f"{name} {len(labels)}" for name, labels in self.axes.items())
        start = f"<{type(self).__name__}{f' of {self.model}' if self.model else ''}{f': {axes}' if axes else ''}"
        end = "; print it for its table; .to_dict(), .to_pandas(), .plot()>"
        return start[: REPR - len(end)] + end


@dataclass(frozen=True, eq=False, repr=False)
class Listing(Finding):
    """A finding that is its text: of files and names, not of values. data: for JSON. text: in at most 80 columns."""

    data: Any
    text: str

    def to_dict(self) -> Any:
        return self.data

    def records(self) -> list[dict[str, Any]]:
        rows = self.data if isinstance(self.data, list) else [self.data]
        return [{name: value for name, value in row.items() if not isinstance(value, list | dict)} for row in rows]

    def __str__(self) -> str:
        return self.text


def long_form(axes: Mapping[str, Sequence[str]], **values: Any) -> list[dict[str, Any]]:
    """A row for each combination of the axes' labels, with each tensor's number there. values: tensors [*axes]."""
    flat = {name: value.flatten().tolist() for name, value in values.items() if value is not None}
    return [
        dict(zip(axes, labels, strict=True)) | {name: numbers[i] for name, numbers in flat.items()}
        for i, labels in enumerate(product(*axes.values()))
    ]
