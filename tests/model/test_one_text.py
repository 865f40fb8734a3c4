"""One text of the model: every pass runs the statements of decoder.py, and watching, editing or fusing moves no bit."""

import ast
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import pytest
import torch

from cutaway import Edit
from cutaway.ground.sites import all_sites
from cutaway.lm import LM, load
from cutaway.model import decoder as decoder_file
from cutaway.model.decoder import Block, run_blocks
from cutaway.quant import native
from cutaway.quant.engine import NativeEngine
from cutaway.quant.formats import Mode
from cutaway.quant.linear import Int8Linear
from cutaway.sample.step import Step
from tests.tiny import CONFIGS, saved

MODES = (*get_args(Mode), None)
PROMPT = torch.tensor([[3, 5, 7, 2, 9], [8, 3, 3, 6, 4]])
NEW = {"max_new_tokens": 4}
needs_library = pytest.mark.skipif(not native.available, reason=f"no native library: {native.MISSING}")


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(request.param, tmp_path_factory.mktemp("model"))[0]


@pytest.fixture(params=MODES)
def lm(request: pytest.FixtureRequest, folder: Path) -> LM:
    return load(folder, quantize=request.param, device="cpu")


def statements() -> dict[int, range]:
    """The statements inside the functions of decoder.py, by their first line."""
    found = {}
    for function in ast.walk(ast.parse(Path(decoder_file.__file__).read_text())):
        if isinstance(function, ast.FunctionDef):
            documented = ast.get_docstring(function) is not None
            for node in (inner for part in function.body[documented:] for inner in ast.walk(part)):
                if isinstance(node, ast.stmt):
                    last = node.body[0].lineno - 1 if isinstance(node, ast.If | ast.For) else node.end_lineno
                    found[node.lineno] = range(node.lineno, (last or node.lineno) + 1)
    return found


def lines_of(run: Any) -> set[int]:
    """Lines of decoder.py that a call executes."""
    lines: set[int] = set()

    def follow(frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename != decoder_file.__file__:
            return None
        lines.add(frame.f_lineno)
        return follow

    before = sys.gettrace()
    sys.settrace(follow)
    try:
        run()
    finally:
        sys.settrace(before)
    return lines


def test_every_statement_of_the_decoder_runs_in_ordinary_use(tmp_path: Path) -> None:
    lines: set[int] = set()
    for name in CONFIGS:
        folder = saved(name, tmp_path / name)[0]
        lms: dict[str, LM] = {}
        lines |= lines_of(lambda: lms.update(int8=load(folder, device="cpu")))  # noqa: B023
        lines |= lines_of(lambda: lms["int8"].generate(PROMPT, max_new_tokens=1))  # noqa: B023
        lines |= lines_of(lambda: lms["int8"].trace(PROMPT))  # noqa: B023
        lines |= lines_of(lambda: load(folder, quantize=None, device="cpu").trace(PROMPT))  # noqa: B023
        edits = [Edit.zero("blocks.1.attn.pattern", head=1)]
        lines |= lines_of(lambda: lms["int8"].trace(PROMPT, "logits", edits=edits))  # noqa: B023
    assert len(statements()) > 80
    assert not [line for line, own in statements().items() if lines.isdisjoint(own)], "these lines never ran"


@pytest.mark.parametrize("mode", MODES)
def test_no_prompt_trace_or_edit_passes_by_the_readable_block(
    mode: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load(saved("llama-gqa", tmp_path)[0], quantize=mode, device="cpu")

    def refuse(*given: Any) -> None:
        raise AssertionError("the readable block")

    monkeypatch.setattr(Block, "forward", refuse)
    runs = [lambda: lm.generate(PROMPT, max_new_tokens=1), lambda: lm.trace(PROMPT), lambda: lm.logits(PROMPT)]
    runs.append(lambda: lm.trace(PROMPT, "logits", edits=[Edit.zero("blocks.1.attn.z")]))
    for run in runs:
        with pytest.raises(AssertionError, match="the readable block"):
            run()


def running(steps: Iterable[Step]) -> list[torch.Tensor]:
    """Logits of each step's texts that had not ended: one that has leaves the pass where nothing watches."""
    return [step.logits[~step.was_over] for step in steps]


def passes(lm: LM, **more: Any) -> list[torch.Tensor]:
    """Logits of the prompt's last position and of each token after it."""
    return running(lm.stream(PROMPT, **NEW, **more))


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def unembedded_alike(lm: LM) -> bool:
    """Whether one row's logits have the same bits among many rows. In a generation only the prompt's last position is
    unembedded, unless the end of the pass is watched; and torch's own product, of a layer that is not in 8 bits, adds
    in an order that depends on how many rows it has, as pooled outliers depend on all rows of a call."""
    head, projected = lm.decoder.unembed.head, lm.decoder.unembed.project_out is not None
    return isinstance(head, Int8Linear) and head.mode != "llm-int8-pooled" and not projected


@needs_library
def test_the_engine_gives_the_bits_of_the_readable_blocks(lm: LM) -> None:
    assert isinstance(lm.decoder.run_blocks, NativeEngine)
    text, fused = passes(lm), lm.generate(PROMPT, sites="*", **NEW).trace
    lm.decoder.run_blocks = run_blocks
    assert same(text, passes(lm))
    called = lm.generate(PROMPT, sites="*", **NEW).trace
    assert fused is not None and called is not None and list(fused) == lm.sites
    for site in fused:
        assert torch.equal(fused[site], called[site]), site


def test_watching_moves_no_bit(lm: LM) -> None:
    """Every site of a pass against each site alone, and against none."""
    logits, whole = lm.logits(PROMPT), lm.trace(PROMPT)
    assert torch.equal(whole["logits"], logits)
    for site in all_sites(lm.config):
        if not site.startswith("blocks.") or site.startswith("blocks.1."):
            assert torch.equal(lm.trace(PROMPT, [site])[site], whole[site]), site
    sites = [site for site in lm.sites if not site.startswith(("ln_final", "logits"))]  # see `unembedded_alike`
    assert same(passes(lm), running(lm.generate(PROMPT, sites=sites, **NEW).steps))
    if unembedded_alike(lm):
        assert same(passes(lm), running(lm.generate(PROMPT, sites="*", **NEW).steps))


def do_nothing(lm: LM) -> Iterator[str]:
    """Patterns: each site of one block, each site of all blocks, those outside, and everything."""
    names = list(all_sites(lm.config))
    yield from (name for name in names if not name.startswith("blocks.") or name.startswith("blocks.1."))
    yield from (name.replace(".1.", ".*.", 1) for name in names if name.startswith("blocks.1."))
    yield "*"


def test_an_edit_that_changes_nothing_moves_no_bit(lm: LM) -> None:
    logits, text = lm.logits(PROMPT), passes(lm)
    for pattern in do_nothing(lm):
        with pytest.warns(UserWarning, match="changed nothing"):
            edited = lm.trace(PROMPT, "logits", edits=[Edit.scale(pattern, 1.0)])
        assert torch.equal(edited["logits"], logits), pattern
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for pattern in ("blocks.1.attn.scores", "blocks.*.mlp.post", "blocks.*", *["*"][: unembedded_alike(lm)]):
            assert same(text, passes(lm, edits=[Edit.scale(pattern, 1.0)])), pattern
