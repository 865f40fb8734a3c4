"""Shapes in signatures are checked in the tests only: jaxtyping's names, beartype's check, on the floors of values."""

from jaxtyping import install_import_hook

install_import_hook(["cutaway.model", "cutaway.sample", "cutaway.text.pieces", "cutaway.trace"], "beartype.beartype")
