"""200 mutations of good folders: each loads with the numbers that transformers gives, or is refused in one sentence."""

import random
import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import cutaway
from cutaway.ground.errors import CutawayError
from cutaway.text.pieces import Tokens
from tests.weights.mutations import (
    CONFIGS,
    FORMS,
    KINDS,
    Folder,
    another_format,
    config_value,
    dtype_of_all,
    dtype_of_one,
    duplicate_tensor,
    flip_header,
    good,
    head_only,
    not_finite,
    nothing,
    old_buffers,
    other_variant,
    own_head,
    prefix,
    prefix_of_some,
    rename_file,
    stale_index,
    swap_files,
    swap_tensors,
    transposed,
)  # fmt: skip

IDS = torch.tensor([[3, 7, 10, 2, 5, 1]])
# Seeds that found something once.
FOUND = [(flip_header, 130), (config_value, 139), (config_value, 155), (config_value, 160), (rename_file, 122)]
MUTATIONS = [*((kind, seed) for kind, count in KINDS.items() for seed in range(count)), *FOUND]
# The seeds of each kind after which we must load: a refusal there is a loss. After the others we may refuse.
LOAD: dict[Callable[[Folder], None], Iterable[int]] = {
    nothing: range(4), swap_tensors: range(8), duplicate_tensor: (3, 4, 5), old_buffers: range(6),
    transposed: (0, 1, 2, 4), dtype_of_one: (1, 4, 5, 7, 8, 9, 12), dtype_of_all: range(6),
    prefix: (0, 1, 2, 3, 5, *range(9, 18)), prefix_of_some: range(5), own_head: range(10), head_only: (0, 2, 3, 4),
    flip_header: (10, 11), rename_file: (122,), swap_files: (3, 4, 5), another_format: range(6),
    stale_index: (0, 1, 2, 3, 4, 6, 7, 8), config_value: (3, 6, 7, 12, 13, 20, 22, 23, 24, 27, 160),
    other_variant: range(3), not_finite: range(4),
}  # fmt: skip
# Names that transformers does not read (it invents the tensors, or finds no file) and that we may: the numbers are then
# those of the folder before.
OTHER_NAMES = {prefix, prefix_of_some, head_only, rename_file}


def theirs(path: Path) -> torch.Tensor | str:
    """Logits of transformers on the same folder; or why there are none: it refuses, or fills tensors with noise."""
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            # eager: of infinite scores torch's fused attention makes numbers, where a softmax is NaN
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
            )
            model, info = loaded
            invented = [*info["missing_keys"], *info["mismatched_keys"]]
            return f"transformers invents {invented[:3]}" if invented else model.eval()(IDS).logits
    except Exception as error:  # whatever it says, it gives no numbers
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize(("kind", "seed"), MUTATIONS, ids=lambda part: getattr(part, "__name__", str(part)))
def test_a_mutation_gives_transformers_numbers_or_one_sentence(
    tmp_path: Path, kind: Callable[[Folder], None], seed: int
) -> None:
    dice = random.Random(f"{kind.__name__} {seed}")
    family, form = list(CONFIGS)[seed % 3], FORMS[seed // 3 % 4]
    folder = good(tmp_path / "model", family, form, dice)
    kind(folder)
    expected = theirs(folder.path)
    if kind in OTHER_NAMES and isinstance(expected, str):
        plain = good(tmp_path / "plain", family, "whole", dice)
        if kind is head_only:
            plain.change(lambda state: {name: tensor for name, tensor in state.items() if name != "lm_head.weight"})
            plain.config(tie_word_embeddings=True)
        expected = theirs(plain.path)
    done = outcome(folder.path, expected)
    assert done == "same" or seed not in LOAD.get(kind, ())


def outcome(path: Path, expected: torch.Tensor | str) -> str:
    """ "same" numbers as expected, or "refused"; anything else is a failure."""
    try:
        logits = cutaway.load(path, quantize=None).logits(Tokens.from_ids(IDS))
    except CutawayError as error:
        sentence = str(error)
        assert sentence.startswith("found ") and "; expected " in sentence and "\n" not in sentence, sentence
        assert "weights/families" not in sentence
        return "refused"
    assert isinstance(expected, torch.Tensor), f"cutaway loads it, but {expected}"
    torch.testing.assert_close(logits.float(), expected, rtol=1e-4, atol=1e-4, equal_nan=True)
    return "same"


def test_there_are_two_hundred_and_good_folders_are_not_refused(tmp_path: Path) -> None:
    assert len(MUTATIONS) >= 200 and sum(len(list(seeds)) for seeds in LOAD.values()) > 100
    assert {(kind, seed) for kind, seeds in LOAD.items() for seed in seeds} <= set(MUTATIONS)
    for family in CONFIGS:
        for form in FORMS:
            folder = good(tmp_path / f"{family}-{form}", family, form, random.Random(0))
            assert outcome(folder.path, theirs(folder.path)) == "same"


def test_the_reference_sees_a_wrong_number(tmp_path: Path) -> None:
    folder = good(tmp_path / "model", "llama", "whole", random.Random(0))
    before = theirs(folder.path)
    folder.change(lambda state: state | {"model.norm.weight": state["model.norm.weight"] * 1.01})
    after = theirs(folder.path)
    assert isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor) and not torch.allclose(before, after)
    shutil.rmtree(folder.path)
