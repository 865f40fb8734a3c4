"""A GGUF file, or all parts of a split one as one.

It does not know the bytes of a part (gguf_format.py), nor what metadata and tensors mean. Names and keys of parts are
those of llama-gguf-split: NAME-00001-of-00003.gguf, split.no from 0.
"""

from pathlib import Path

from cutaway.ground.errors import BadCheckpoint
from cutaway.weights.files.gguf_format import GGUF, damaged, open_part
from cutaway.weights.files.lazy import LazyTensor
from cutaway.weights.files.which import GGUF_PART

AGAIN = "fetch all the parts again"


def open_gguf(path: Path) -> GGUF:
    """A file's metadata and tensors; of a part of a split file, the first part's metadata and all parts' tensors.

    Raises as open_part, and BadCheckpoint where a part is missing or belongs to another file.
    """
    part = open_part(path)
    count = part.metadata.get("split.count", 0)
    if count in (0, 1):  # 0 is what llama-gguf-split --merge leaves
        return part
    if not isinstance(count, int):
        raise damaged(path, f"split.count={count!r}")
    return _merged([part if file == path else open_part(file) for file in _part_files(path, part, count)], count)


def parts_of(path: Path) -> list[Path]:
    """The file itself, or all parts of the split file that it is a part of."""
    part = open_part(path)
    count = part.metadata.get("split.count", 0)
    return _part_files(path, part, count) if isinstance(count, int) and count > 1 else [path]


def _part_files(path: Path, part: GGUF, count: int) -> list[Path]:
    named = GGUF_PART.fullmatch(path.name)
    if named is None or int(named["count"]) != count:
        found = f"{path.name}, part {part.metadata.get('split.no', 0) + 1} of a GGUF file split in {count}"
        expected = f"a name that ends in -00001-of-{count:05}.gguf, by which the other parts are found"
        raise BadCheckpoint(found, expected, "give the parts back the names that they were published under")
    names = [f"{named['name']}-{number:05}-of-{count:05}{named['ending']}" for number in range(1, count + 1)]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        found = f"{count - len(missing)} of the {count} parts of a split GGUF file in {path.parent}"
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise BadCheckpoint(found, f"also {', '.join(missing[:3])}{more}", "fetch the missing parts")
    return [path.parent / name for name in names]


def _merged(parts: list[GGUF], count: int) -> GGUF:
    tensors: dict[str, LazyTensor] = {}
    for number, part in enumerate(parts):
        facts = tuple(part.metadata.get(f"split.{key}") for key in ("no", "count"))
        if facts != (number, count):
            found = f"split.no={facts[0]} and split.count={facts[1]} in {part.path.name}"
            raise BadCheckpoint(found, f"split.no={number} and split.count={count}, as it is named", AGAIN)
        twice = sorted(tensors.keys() & part.tensors.keys())
        if twice:
            raise BadCheckpoint(f"{twice[0]!r} in {part.path.name} and in an earlier part", "it in one part", AGAIN)
        tensors |= part.tensors
    first = parts[0]
    total = first.metadata.get("split.tensors.count", len(tensors))
    if len(tensors) != total:
        found = f"{len(tensors)} tensors in the {count} parts of {first.path.name}"
        raise BadCheckpoint(found, f"{total}, as it says itself", AGAIN)
    return GGUF(first.metadata, tensors, first.path)
