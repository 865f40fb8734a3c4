"""`cutaway tokens`: a text's pieces, their ids, mask and positions.

It reads the tokenizer's files and config.json only, and does not know the weights.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from cutaway.apps.cli.common import Report, WithoutWeights, busy, note, read_texts, verb
from cutaway.apps.cli.options import NoSpecial, Texts

if TYPE_CHECKING:
    from cutaway.text.tokenizer import Tokenizer

Side = Annotated[str, typer.Option(metavar="SIDE", help="right or left: where shorter texts are padded.")]


@verb
def tokens(
    options: WithoutWeights, texts: Texts, padding_side: Side = "right", no_special_tokens: NoSpecial = False
) -> None:
    """Cut texts into pieces: ids, mask, positions.

    Several texts are padded to the longest. The model's weights are not read.
    """
    read = read_texts(texts)
    with busy("reading the tokenizer") as report:
        tokenizer, context = _open(options.find(report), options.offline, report)
        side = cast(Literal["right", "left"], padding_side)  # the tokenizer refuses another, in a sentence
        added = not no_special_tokens
        cut = tokenizer.tokenize(read, padding_side=side, add_special_tokens=added, context=context)
    for line in tokenizer.notes:
        note(line)
    options.print(cut)


def _open(path: Path, offline: bool, report: Report) -> "tuple[Tokenizer, int | None]":
    """The tokenizer, and the most tokens that its model takes (None where no config.json says)."""
    from cutaway.text.from_folder import vocabularies
    from cutaway.text.tokenizer import Tokenizer
    from cutaway.weights.adapter import base_of
    from cutaway.weights.checkpoint import open_checkpoint, read_config
    from cutaway.weights.families import facts_of
    from cutaway.weights.files import is_gguf, model_path
    from cutaway.weights.files.lora import open_adapter
    from cutaway.weights.files.recognize import is_adapter

    path = model_path(path, note)
    if is_adapter(path) and not vocabularies(path):
        path = base_of(open_adapter(path), offline=offline, progress=report)
    if is_gguf(path):
        checkpoint = open_checkpoint(path)
        return Tokenizer.from_gguf(checkpoint.gguf_metadata or {}), checkpoint.facts.n_positions
    if not (path / "config.json").is_file():
        return Tokenizer.from_folder(path), None
    model_type, facts = facts_of(read_config(path), lambda line: None)
    return Tokenizer.from_folder(path, model_type), facts.n_positions
