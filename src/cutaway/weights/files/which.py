"""Which of a folder's or a repository's files are read as its weights: a rule on names only.

It does not open files, nor know where they are. Points 1 to 3 are transformers' own (modeling_utils.py,
_get_resolved_checkpoint_files):

1. What config.json names as `transformers_weights`.
2. model.safetensors, else the shards that model.safetensors.index.json names; else pytorch_model.bin, else those of its
   index. A single file comes before an index: shards beside it may be older.
3. The same names with a variant (model.fp16.safetensors, model.safetensors.index.fp16.json), where there is one only.
4. One other *.safetensors file. 5. One .gguf file; the parts of a split one count as one.
"""

import re
from collections.abc import Iterable

from cutaway.ground.errors import BadCheckpoint

LAYOUTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
NOT_THE_MODEL = re.compile(r"(adapter_model|consolidated|optimizer|scheduler|random_states|training_args).*")
INDEX = re.compile(r"(?P<stem>.+)\.(?P<ending>safetensors|bin)\.index(?P<variant>\.[^.]+)?\.json")
SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}\.(?P<ending>safetensors|bin)")
GGUF_PART = re.compile(r"(?P<name>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<ending>\.gguf)", re.IGNORECASE)


def chosen(names: Iterable[str], where: str, named: object = None) -> str | None:
    """The file that is read, of tensors or an index of shards, by points 1 to 4 of the rule; None where there is none.

    where: the folder, in the words of an error. named: config.json's `transformers_weights`. Raises BadCheckpoint
    where that is no such file, or where there are several variants.
    """
    names = sorted(names)
    if named is not None:
        return _named(names, where, named)
    plain = next((name for name in LAYOUTS if name in names), None)
    if plain is not None:
        return plain
    variants = _variants(names)
    if len(variants) > 1:
        files = listed([file for starts in variants.values() for file in starts])
        found = f"weights of {len(variants)} variants in {where} ({files})"
        do = "keep one of them in a folder of its own, with config.json"
        raise BadCheckpoint(found, "one of them, or model.safetensors", do)
    if variants:
        return next(iter(variants.values()))[0]
    others = other_safetensors(names)
    return others[0] if len(others) == 1 else None


def weights_among(names: Iterable[str]) -> list[str]:
    """Every file of weights that could be read: files of tensors, indices, .gguf models."""
    names = sorted(names)
    bins = [name for name in names if re.fullmatch(r"pytorch_model.*\.bin", name)]
    indices = [name for name in names if INDEX.fullmatch(name) and not NOT_THE_MODEL.fullmatch(name)]
    return sorted({*other_safetensors(names), *bins, *indices, *ggufs(names)})


def other_safetensors(names: Iterable[str]) -> list[str]:
    """*.safetensors files of any name, without those that are no model's weights."""
    return sorted(name for name in names if name.endswith(".safetensors") and not NOT_THE_MODEL.fullmatch(name))


def ggufs(names: Iterable[str]) -> list[str]:
    """The .gguf models: of a split one the first existing part; no vision projectors (mmproj)."""
    models: dict[object, str] = {}
    for name in sorted(names):
        if name.lower().endswith(".gguf") and not name.lower().startswith("mmproj"):
            part = GGUF_PART.fullmatch(name)
            models.setdefault((part["name"], part["count"]) if part else name, name)
    return list(models.values())


def shards_of(names: Iterable[str], index: str) -> list[str]:
    """The shards of an index that cannot be read yet: those with its stem, else all with its ending."""
    names, match = sorted(names), INDEX.fullmatch(index)
    if match is None:
        return []
    stem = match["stem"] + (match["variant"] or "")
    own = [n for n in names if (shard := SHARD.fullmatch(n)) and (shard["stem"], shard["ending"]) == (stem, match[2])]
    return own or [name for name in names if name.endswith(f".{match['ending']}")]


def index_of(shard: str) -> str | None:
    """The name of a shard's index: model.safetensors.index.fp16.json for model.fp16-00001-of-00002.safetensors. None
    where the file is no shard."""
    match = SHARD.fullmatch(shard)
    if match is None:
        return None
    stem, dot, variant = match["stem"].partition(".")
    return f"{stem}.{match['ending']}.index{dot}{variant}.json"


def listed(names: list[str], most: int = 3) -> str:
    """The first `most` names, and how many there are."""
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")


def _named(names: list[str], where: str, named: object) -> str:
    """The file that config.json names; `names` are bare, so that it cannot lead out of its folder."""
    if not isinstance(named, str) or "/" in named or not named.endswith((".safetensors", ".safetensors.index.json")):
        found = f"transformers_weights={named!r} in config.json"
        expected = "a safetensors file of its folder, or an index"
        raise BadCheckpoint(found, expected, "use the model's own config.json")
    if named not in names:
        raise BadCheckpoint(f"no {named} in {where}", "it there, as config.json names it", "fetch the missing file")
    return named


def _variants(names: list[str]) -> dict[str, list[str]]:
    """LAYOUTS under the names of each variant (transformers' _add_variant); shards are found by their index."""
    found: dict[str, list[str]] = {}
    for layout in LAYOUTS:
        stem, ending = layout.rsplit(".", 1)
        for name in names:
            match = re.fullmatch(rf"{re.escape(stem)}\.([^.]+)\.{ending}", name)
            if match and not SHARD.fullmatch(name) and name not in LAYOUTS:
                found.setdefault(match[1], []).append(name)
    return found
