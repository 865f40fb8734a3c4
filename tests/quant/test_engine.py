"""The engine: as few native calls as the tap allows, the bits of the called blocks, and nothing read stale."""

import gc
import inspect
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import get_args
from weakref import ref

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.hooks import RemovableHandle

from cutaway.ground.errors import BadArgument
from cutaway.model.cache import Cache
from cutaway.model.decoder import Decoder
from cutaway.model.tap import Chain, Tap, Untapped, untapped
from cutaway.quant import native
from cutaway.quant.engine import NativeEngine
from cutaway.quant.formats import Mode
from cutaway.quant.linear import Int8Linear
from cutaway.quant.ops import NativeOps
from cutaway.quant.panels import panels_of
from cutaway.text.pieces import Tokens
from cutaway.trace.generation_recorder import GenerationRecorder
from cutaway.trace.plan import Row
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.load import load_decoder
from tests.tiny import saved

pytestmark = pytest.mark.skipif(not native.available, reason=f"no native library: {native.MISSING}")
MODES = get_args(Mode)
PROMPT = Tokens.from_ids([[0, 0, 3, 5, 7, 2], [8, 3, 3, 6, 4, 9]], torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6]))
ONE_CALL = ("opt", "gpt2", "llama", "llama-gqa", "llama-gelu")  # activations that the library has, norms before


class OneByOne(Untapped):
    """Wants a value of every block and has no buffers, so that each is called; and leaves all values alone."""

    def wants(self, *names: str) -> bool:
        return any(name.endswith("mlp.post") for name in names)


class MyCache(Cache):
    """One that counts what is written."""

    calls = 0

    def extend(self, *given: object) -> tuple[torch.Tensor, torch.Tensor]:
        MyCache.calls += 1
        return super().extend(*given)  # type: ignore[arg-type]


class Passes:
    """A prompt, and then a token at a time: logits of each pass."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.cache, self.done = decoder, Cache(decoder.config.n_layers, 2, 16), 0
        with torch.inference_mode():
            decoder(PROMPT, self.cache)

    def next(self, tap: Tap = untapped) -> torch.Tensor:
        ids = torch.tensor([[4 + self.done], [10]])
        positions = PROMPT.positions[:, -1:] + 1 + self.done
        self.done += 1
        with torch.inference_mode():
            return self.decoder(Tokens(ids, torch.ones_like(ids), positions), self.cache, tap)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    return request.param


def loaded(name: str, tmp_path: Path, mode: Mode = "int8") -> Decoder:
    checkpoint = open_checkpoint(saved(name, tmp_path)[0])
    return load_decoder(checkpoint, dtype=torch.float32, device="cpu", quantize=mode)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The first block and the number of blocks of each native call from now on."""
    runs: list[tuple[int, int]] = []
    inner = native.NativeBlocks.__call__

    def call(self: native.NativeBlocks, *args: object) -> torch.Tensor:
        runs.append(args[-2:])  # type: ignore[arg-type]
        return inner(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(native.NativeBlocks, "__call__", call)
    return runs


@pytest.mark.parametrize("name", ONE_CALL)
def test_the_longest_runs_of_blocks_are_one_call_each(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    runs, decoder = counted(monkeypatch), loaded(name, tmp_path, mode)
    decoder.blocks.append(deepcopy(decoder.blocks[2]))  # four blocks, the last two of one layer's keys and values
    passes, layers = Passes(decoder), 4

    class Watches(Untapped):
        def wants(self, *names: str) -> bool:
            return "blocks.1.mlp.post" in names

    class Changes(Watches):
        changes = Watches.wants

        def buffers(self, names: tuple[str, ...]) -> None:
            raise AssertionError("asked for buffers of a value that it changes")

    hook, down = list[RemovableHandle](), decoder.blocks[1].mlp.down
    changes: list[tuple[Tap, Callable[[], object], list[tuple[int, int]]]] = [
        (untapped, lambda: None, [(0, layers)]),
        (Watches(), lambda: None, [(0, 1), (2, 2)]),
        (Changes(), lambda: None, [(0, 1), (2, 2)]),
        (untapped, lambda: hook.append(down.register_forward_hook(lambda *_: None)), [(0, 1), (1, 2)]),
        (untapped, lambda: hook[0].remove(), [(0, layers)]),
        (untapped, lambda: hook.append(register_module_forward_hook(lambda *_: None)), []),
        (untapped, lambda: hook[1].remove(), [(0, layers)]),
    ]  # fmt: skip
    for tap, change, expected in changes:
        change()
        runs.clear()
        passes.next(tap)
        assert runs == expected


def test_a_token_takes_three_python_frames_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = loaded("llama", tmp_path)
    passes, between = Passes(decoder), []
    passes.next()

    class Call:
        """Instead of the library's function: records its caller."""

        def __call__(self, *args: object) -> None:
            frame = sys._getframe(1)
            while frame is not None and frame.f_code is not decoder_code:
                between.append(frame.f_code.co_qualname)
                frame = frame.f_back
            inner(*args)

    decoder_code = inspect.unwrap(Decoder.forward).__code__
    assert isinstance(decoder.run_blocks, NativeEngine) and decoder.run_blocks.plan is not None
    prepared = decoder.run_blocks.plan.native
    assert prepared is not None
    inner = prepared.run
    monkeypatch.setattr(prepared, "run", Call())
    passes.next()
    own = [name for name in between if not name.startswith(("jaxtyped", "wrapper"))]
    assert 1 <= len(own) <= 3, own


def new_norm(decoder: Decoder) -> None:
    block = decoder.blocks[1]
    block.ln2.weight = nn.Parameter(block.ln2.weight.detach() * 1.5)


def new_memory(decoder: Decoder) -> None:
    weight = decoder.blocks[1].ln2.weight
    weight.data = weight.data * 1.5


def swapped_tensors(decoder: Decoder) -> None:
    weight = decoder.blocks[1].ln2.weight
    torch.utils.swap_tensors(weight, nn.Parameter(weight.detach() * 1.5))


def another_order(decoder: Decoder) -> None:
    first, second, *others = decoder.blocks
    decoder.blocks = nn.ModuleList([second, first, *others])


def a_block_more(decoder: Decoder) -> None:
    decoder.blocks.append(decoder.blocks[0])


def no_angles(decoder: Decoder) -> None:
    decoder.rotary = None


def other_weight(layer: Int8Linear) -> torch.Tensor:
    """What layers store first, of the negative weight."""
    return panels_of(-layer.codes, layer.scale) if layer.mode == "int8" else -layer.codes


def new_layer(decoder: Decoder) -> None:
    old = decoder.blocks[1].mlp.down
    decoder.blocks[1].mlp._modules["down"] = Int8Linear.from_parts(old.codes, old.scale * 2, old.bias, old.mode)


def new_scale(decoder: Decoder) -> None:
    layer = decoder.blocks[0].attn.qkv
    if layer.mode == "int8":
        layer.panels = panels_of(layer.codes, layer.scale * 1.5)
    else:
        layer.scale = layer.scale * 1.5


def new_weight(decoder: Decoder) -> None:
    layer = decoder.blocks[1].mlp.up
    setattr(layer, layer.STORED[0], other_weight(layer))


def new_weight_in_place(decoder: Decoder) -> None:
    layer = decoder.blocks[0].attn.out
    layer.load_state_dict(layer.state_dict() | {layer.STORED[0]: other_weight(layer)})


def weight_written(decoder: Decoder) -> None:
    layer = decoder.blocks[1].mlp.up
    getattr(layer, layer.STORED[0]).copy_(other_weight(layer))


def another_epsilon(decoder: Decoder) -> None:
    decoder.blocks[1].ln2.eps = 0.5


def another_activation(decoder: Decoder) -> None:
    decoder.blocks[1].mlp.activation = "relu"


def other_ops(decoder: Decoder) -> None:
    class Twice(NativeOps):
        def gate(self, activation: str, gate_BTF: torch.Tensor, linear_BTF: torch.Tensor) -> torch.Tensor:
            return super().gate(activation, gate_BTF, linear_BTF) * 2

    decoder.blocks[1].mlp.ops = Twice()


def a_hook(decoder: Decoder) -> None:
    decoder.blocks[1].mlp.down.register_forward_hook(lambda module, given, out: out * 2)


def a_hook_on_a_block(decoder: Decoder) -> None:
    decoder.blocks[0].register_forward_pre_hook(lambda module, given: (given[0] * 2, *given[1:]))


def another_forward(decoder: Decoder) -> None:
    layer = decoder.blocks[1].mlp.down
    usual = layer.forward
    layer.forward = lambda x, *more: usual(x, *more) * 2


def a_block_less(decoder: Decoder) -> None:
    decoder.blocks[1] = decoder.blocks[0]


AT_ONCE = [
    new_norm, new_memory, swapped_tensors, new_layer, new_scale, new_weight, new_weight_in_place, a_hook,
    a_hook_on_a_block, a_block_less, a_block_more, another_order, no_angles,
]  # fmt: skip
FROM_THE_NEXT_TEXT_ON = [
    weight_written, another_epsilon, another_activation, other_ops, another_forward
]  # fmt: skip


@pytest.mark.parametrize("change", AT_ONCE)
def test_what_is_replaced_between_two_tokens_is_seen(
    change: Callable[[Decoder], None], tmp_path: Path, mode: Mode
) -> None:
    decoder = loaded("llama", tmp_path, mode)
    each, without, together = (Passes(decoder) for _ in range(3))
    for passes in (each, without):
        passes.next()
    before = without.next()
    together.next()
    assert isinstance(decoder.run_blocks, NativeEngine)
    plan = decoder.run_blocks.plan
    assert plan is not None and plan.cache() is together.cache, "else another plan would see any change"
    change(decoder)
    found = together.next()
    assert torch.equal(found, each.next(OneByOne())) and not torch.equal(found, before)


@pytest.mark.parametrize("change", [*AT_ONCE, *FROM_THE_NEXT_TEXT_ON])
def test_what_is_changed_between_two_texts_is_seen(
    change: Callable[[Decoder], None], tmp_path: Path, mode: Mode
) -> None:
    decoder = loaded("llama", tmp_path, mode)
    before = [Passes(decoder).next() for _ in range(2)][-1]
    change(decoder)
    assert torch.equal(Passes(decoder).next(), Passes(decoder).next(OneByOne()))
    assert not torch.equal(Passes(decoder).next(), before)


def test_memory_that_moves_between_two_tokens_is_not_read_where_it_was(tmp_path: Path, mode: Mode) -> None:
    """As torch.multiprocessing moves what it hands to another process."""
    decoder = loaded("llama", tmp_path, mode)
    each, together = Passes(decoder), Passes(decoder)
    for passes in (each, together):
        passes.next()
    assert isinstance(decoder.run_blocks, NativeEngine)
    before = decoder.run_blocks.plan
    for module in decoder.modules():
        if isinstance(module, Int8Linear):
            getattr(module, module.STORED[0]).share_memory_()
    assert torch.equal(together.next(), each.next(OneByOne())) and decoder.run_blocks.plan is not before


def test_keys_and_values_may_be_put_in_the_place_of_others(tmp_path: Path) -> None:
    decoder = loaded("llama", tmp_path)
    each, together = Passes(decoder), Passes(decoder)
    for passes, tap in ((each, OneByOne()), (together, untapped)):
        passes.next(tap)
        cache = passes.cache
        cache.keys = [keys[[1, 1]] for keys in cache.keys if keys is not None]
        cache.values = [values[[1, 1]] for values in cache.values if values is not None]
    assert torch.equal(together.next(), each.next(OneByOne()))
    together.cache.values.pop()
    with pytest.raises(IndexError):
        together.next()


class Half(Untapped):
    """Leaves block 0's result in another dtype, or with fewer rows."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.change = change

    def __call__(self, name: str, value: torch.Tensor) -> torch.Tensor:
        return self.change(value) if name == "blocks.0.resid_post" else value

    def wants(self, *names: str) -> bool:
        return "blocks.0.resid_post" in names

    changes = wants


@pytest.mark.parametrize("change", [lambda x: x.double(), lambda x: x[:1], lambda x: x[..., :8]])
def test_what_a_block_may_not_read_is_not_read_natively(
    change: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, passes = counted(monkeypatch), Passes(loaded("llama", tmp_path))
    passes.next()
    runs.clear()
    with pytest.raises((BadArgument, RuntimeError, TypeCheckError)):
        passes.next(Half(change))
    assert not runs


def test_two_recorders_of_different_blocks_miss_nothing(tmp_path: Path) -> None:
    decoder = loaded("llama", tmp_path)
    rows = [Row(f"blocks.{i}.mlp.post", (2, 16, 48), torch.float32) for i in range(2)]
    taps = [GenerationRecorder([row], 16, torch.device("cpu")) for row in rows]
    both = GenerationRecorder(rows, 16, torch.device("cpu"))
    for tap in (Chain(*taps), both):
        passes = Passes(decoder)
        for _ in range(3):
            passes.next(tap)
    for row, tap in zip(rows, taps, strict=True):
        assert torch.equal(tap.values[row.site][: tap.filled], both.values[row.site][: tap.filled]), row.site


@pytest.mark.parametrize("own", [MyCache, None])
def test_a_cache_or_a_pass_of_another_kind_is_not_run_natively(
    own: type[Cache] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, decoder = counted(monkeypatch), loaded("llama", tmp_path)
    passes = Passes(decoder)
    with torch.inference_mode():
        if own is None:
            empty = torch.zeros(2, 0, dtype=torch.long)
            assert decoder(Tokens(empty, empty, empty), passes.cache).shape == (2, 0, 11)
        else:
            passes.cache = own(decoder.config.n_layers, 2, 16)
            decoder(PROMPT, passes.cache)
            passes.next()
            assert own.calls == 2 * decoder.config.n_layers
    assert not runs


def test_positions_of_one_text_serve_all(tmp_path: Path) -> None:
    decoder = loaded("llama", tmp_path)
    each, together = Passes(decoder), Passes(decoder)
    ids, mask, positions = torch.tensor([[4], [10]]), torch.ones(2, 1, dtype=torch.long), torch.tensor([[6]])
    with torch.inference_mode():
        for passes in (each, together):
            passes.next()
        expected = decoder(Tokens(ids, mask, positions), each.cache, OneByOne())
        assert torch.equal(decoder(Tokens(ids, mask, positions), together.cache), expected)


@pytest.mark.parametrize(
    ("layer", "shape"), [("mlp.down", (32, 4096)), ("mlp.down", (4096, 48)), ("mlp.up", (8, 32)), ("attn.qkv", (8, 32))]
)
def test_a_layer_of_another_shape_is_refused(layer: str, shape: tuple[int, int], tmp_path: Path, mode: Mode) -> None:
    decoder = loaded("llama", tmp_path, mode)
    passes = Passes(decoder)
    passes.next()
    decoder.blocks[1].set_submodule(layer, Int8Linear.from_linear(nn.Linear(*shape[::-1], bias=False), mode))
    with pytest.raises((BadArgument, RuntimeError, TypeCheckError)):
        passes.next()


def test_a_norm_of_another_width_is_refused(tmp_path: Path) -> None:
    decoder = loaded("llama", tmp_path)
    passes = Passes(decoder)
    passes.next()
    decoder.blocks[1].ln2.weight = nn.Parameter(torch.ones(3))
    with pytest.raises(RuntimeError):
        passes.next()


def test_what_torch_func_writes_for_a_call_is_seen(tmp_path: Path, mode: Mode) -> None:
    decoder = loaded("llama", tmp_path, mode)
    passes, layer = Passes(decoder), decoder.blocks[1].mlp.down
    name = f"blocks.1.mlp.down.{layer.STORED[0]}"
    passes.next()
    tokens = Tokens(torch.tensor([[5], [10]]), torch.ones(2, 1, dtype=torch.long), torch.tensor([[5], [7]]))
    outs = []
    usual, negative = getattr(layer, layer.STORED[0]), other_weight(layer)
    for weight in (usual, negative, usual):
        with torch.inference_mode():
            passes.cache.rewind(7)
            outs.append(torch.func.functional_call(decoder, {name: weight}, (tokens, passes.cache)))
    assert torch.equal(outs[0], outs[2]) and not torch.equal(outs[0], outs[1])


def test_a_pass_that_changed_nothing_prepares_nothing(tmp_path: Path) -> None:
    decoder = loaded("llama", tmp_path)
    passes = Passes(decoder)
    passes.next()
    assert isinstance(decoder.run_blocks, NativeEngine)
    plan = decoder.run_blocks.plan
    passes.next()
    assert plan is not None and decoder.run_blocks.plan is plan


def test_a_cache_that_is_gone_is_not_kept(tmp_path: Path) -> None:
    decoder = loaded("llama", tmp_path)
    passes = Passes(decoder)
    passes.next()
    keys = ref(passes.cache.keys[0])
    del passes
    gc.collect()
    assert keys() is None
