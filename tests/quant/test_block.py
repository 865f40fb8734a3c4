"""Blocks in one native call: the bits of their steps one by one, and never past anything that was replaced."""

import gc
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from weakref import ref

import pytest
import torch
from torch import nn

from cutaway.ground.errors import BadArgument
from cutaway.model.cache import Cache
from cutaway.model.counted import Counted
from cutaway.model.decoder import Decoder
from cutaway.model.tap import Tap, Untapped, untapped
from cutaway.quant import native
from cutaway.quant.linear import Int8Linear
from cutaway.text.pieces import Tokens
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.load import load_decoder
from tests.tiny import CONFIGS, saved

pytestmark = pytest.mark.skipif(not native.available, reason=f"no native library: {native.MISSING}")
PROMPT = Tokens.from_ids([[0, 0, 3, 5, 7, 2], [8, 3, 3, 6, 4, 9]], torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6]))
ONE_CALL = ("opt", "llama", "llama-gqa")  # families whose nonlinearity the library has, with the norm before


class OneByOne(Untapped):
    """Wants a value of every block, so that none can be run as one; and leaves all of them alone."""

    def wants(self, *names: str) -> bool:
        return any(name.endswith("mlp.post") for name in names)


class Passes:
    """A prompt, and then a token at a time: logits of each pass."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.cache, self.place = decoder, Cache(decoder.config.n_layers, 2, 12), 0
        with torch.inference_mode():
            decoder(PROMPT, self.cache)

    def next(self, tap: Tap = untapped) -> torch.Tensor:
        ids = torch.tensor([[4 + self.place], [10]])
        positions = PROMPT.positions[:, -1:] + 1 + self.place
        self.place += 1
        with torch.inference_mode():
            return self.decoder(Tokens(ids, torch.ones_like(ids), positions), self.cache, tap)


def loaded(name: str, tmp_path: Path) -> Decoder:
    checkpoint = open_checkpoint(saved(name, tmp_path)[0])
    return load_decoder(checkpoint, dtype=torch.float32, device="cpu", quantize="int8")


@pytest.mark.parametrize("name", CONFIGS)
def test_all_blocks_in_one_call_give_the_bits_of_each_step(name: str, tmp_path: Path) -> None:
    decoder = loaded(name, tmp_path)
    together, each = Passes(decoder), Passes(decoder)
    for _ in range(4):
        assert torch.equal(together.next(), each.next(OneByOne()))
    for kept, expected in zip(together.cache.keys, each.cache.keys, strict=True):
        assert kept is not None and expected is not None and torch.equal(kept[:, :10], expected[:, :10])


@pytest.mark.parametrize("name", ONE_CALL)
def test_it_is_one_call_indeed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    inner = native.BlockRun.__call__

    def counted(self: native.BlockRun, *args: object) -> torch.Tensor:
        runs.append(len(self.blocks))
        return inner(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(native.BlockRun, "__call__", counted)
    decoder = loaded(name, tmp_path)
    passes, layers = Passes(decoder), decoder.config.n_layers
    passes.next()
    assert runs == [layers], "the whole stack"
    runs.clear()

    class Second(Untapped):
        def wants(self, *names: str) -> bool:
            return "blocks.1.mlp.post" in names

    passes.next(Second())
    assert runs == [1] * (layers - 1), "each block but the one that is watched"
    runs.clear()
    hook = decoder.blocks[1].mlp.down.register_forward_hook(lambda module, given, out: None)
    passes.next()
    assert runs == [1] * (layers - 1), "each block but the one with a hook"
    hook.remove()
    runs.clear()
    passes.next()
    assert runs == [layers], "the whole stack again"


def new_norm(decoder: Decoder) -> None:
    block = decoder.blocks[1]
    block.ln2.weight = nn.Parameter(block.ln2.weight.detach() * 1.5)


def new_memory(decoder: Decoder) -> None:
    weight = decoder.blocks[1].ln2.weight
    weight.data = weight.data * 1.5


def swapped_tensors(decoder: Decoder) -> None:
    weight = decoder.blocks[1].ln2.weight
    torch.utils.swap_tensors(weight, nn.Parameter(weight.detach() * 1.5))


def a_wider_norm(decoder: Decoder) -> None:
    norm = decoder.blocks[1].ln2.to(torch.float64)
    norm.weight.data *= 1.5


def another_order(decoder: Decoder) -> None:
    first, second, *others = decoder.blocks
    decoder.blocks = nn.ModuleList([second, first, *others])


def a_block_more(decoder: Decoder) -> None:
    decoder.blocks.append(decoder.blocks[0])


def no_angles(decoder: Decoder) -> None:
    decoder.rotary = None


def new_layer(decoder: Decoder) -> None:
    old = decoder.blocks[1].mlp.down
    decoder.blocks[1].mlp._modules["down"] = Int8Linear(old.codes, old.scale * 2, old.bias)


def new_scale(decoder: Decoder) -> None:
    layer = decoder.blocks[0].attn.qkv
    layer.scale = layer.scale * 1.5


def new_codes_in_place(decoder: Decoder) -> None:
    layer = decoder.blocks[0].attn.out
    layer.load_state_dict(layer.state_dict() | {"codes": -layer.codes})


def another_mode(decoder: Decoder) -> None:
    decoder.blocks[1].mlp.up.mode = "int8-weight"


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


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
@pytest.mark.parametrize(
    "change",
    [new_norm, new_memory, swapped_tensors, a_wider_norm, new_layer, new_scale, new_codes_in_place, another_mode,
     a_hook, a_hook_on_a_block, another_forward, a_block_less, a_block_more, another_order, no_angles],
)  # fmt: skip
def test_what_is_replaced_between_two_tokens_is_seen(change: Callable[[Decoder], None], tmp_path: Path) -> None:
    decoder = loaded("llama", tmp_path)
    together, each, without = (Passes(decoder) for _ in range(3))
    for passes in (together, each, without):
        passes.next()
    before = without.next()
    change(decoder)
    found, expected = together.next(), each.next(OneByOne())
    assert torch.equal(found, expected) and not torch.equal(found, before)


def test_keys_and_values_may_be_put_in_the_place_of_others(tmp_path: Path) -> None:
    decoder = loaded("llama", tmp_path)
    together, each = Passes(decoder), Passes(decoder)
    for passes, tap in ((together, untapped), (each, OneByOne())):
        passes.next(tap)
        cache = passes.cache
        cache.keys = [keys[[1, 1]] for keys in cache.keys if keys is not None]
        cache.values = [values[[1, 1]] for values in cache.values if values is not None]
    assert torch.equal(together.next(), each.next(OneByOne()))
    together.cache.values.pop()
    with pytest.raises(IndexError):
        together.next()


@pytest.mark.parametrize(
    ("layer", "shape"), [("mlp.down", (32, 4096)), ("mlp.down", (4096, 40)), ("mlp.up", (8, 32)), ("attn.qkv", (8, 32))]
)
def test_a_layer_of_another_shape_is_refused(layer: str, shape: tuple[int, int], tmp_path: Path) -> None:
    decoder = loaded("llama", tmp_path)
    passes = Passes(decoder)
    passes.next()
    codes = torch.ones(shape, dtype=torch.int8)
    decoder.blocks[1].set_submodule(layer, Int8Linear(codes, torch.ones(shape[0])))
    with pytest.raises((BadArgument, RuntimeError)):
        passes.next()


def test_a_norm_of_another_width_is_refused(tmp_path: Path) -> None:
    decoder = loaded("llama", tmp_path)
    passes = Passes(decoder)
    passes.next()
    decoder.blocks[1].ln2.weight = nn.Parameter(torch.ones(3))
    with pytest.raises(RuntimeError):
        passes.next()


class Rooms(OneByOne):
    """Wants all that is inside blocks but what `without` names, and has places for it where places are asked for."""

    def __init__(self, shapes: dict[str, torch.Size], without: tuple[str, ...]) -> None:
        self.values = {site: torch.zeros(1, *shape) for site, shape in shapes.items() if not site.endswith(without)}

    def wants(self, *names: str) -> bool:
        return any(name in self.values for name in names)

    def __call__(self, name: str, value: torch.Tensor) -> torch.Tensor:
        if name in self.values:
            self.values[name][0] = value
        return value

    def room(self, names: tuple[str, ...], places: int) -> native.Room | None:
        return native.Room([self.values.get(name) for name in names])


class Shapes(OneByOne):
    def __init__(self) -> None:
        self.found: dict[str, torch.Size] = {}

    def wants(self, *names: str) -> bool:
        return True

    def __call__(self, name: str, value: torch.Tensor) -> torch.Tensor:
        if name.startswith("blocks."):
            self.found[name] = value.shape
        return value


@pytest.mark.parametrize("change", [None, another_order, a_block_more])
@pytest.mark.parametrize("without", [("scores", "pattern"), ("nothing",)])
def test_what_is_recorded_in_one_call_is_what_each_block_shows(
    change: Callable[[Decoder], None] | None, without: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = loaded("llama-gqa", tmp_path)
    together, each = Passes(decoder), Passes(decoder)
    for passes in (together, each):
        passes.next()
    if change is not None:
        change(decoder)
    shapes = Shapes()
    deepcopied = deepcopy(each)
    deepcopied.next(shapes)
    one, other = Rooms(shapes.found, without), Rooms(shapes.found, without)
    other.room = lambda names, places: None  # type: ignore[method-assign]
    expected, runs, inner = each.next(other), [], native.BlockRun.__call__
    monkeypatch.setattr(native.BlockRun, "__call__", lambda self, *args: runs.append(self) or inner(self, *args))
    assert torch.equal(together.next(one), expected)
    assert len(runs) == (without != ("nothing",)), "one call, and none where the softmax is wanted"
    for site, value in one.values.items():
        assert value.any() and torch.allclose(value, other.values[site], rtol=1e-4, atol=1e-5), site


def test_what_torch_func_writes_for_a_call_is_seen(tmp_path: Path) -> None:
    decoder = loaded("llama", tmp_path)
    passes, scale = Passes(decoder), decoder.blocks[1].mlp.down.scale
    passes.next()
    tokens = Tokens(torch.tensor([[5], [10]]), torch.ones(2, 1, dtype=torch.long), torch.tensor([[5], [7]]))
    outs = []
    for factor in (1.0, 2.0, 1.0):
        with torch.inference_mode():
            passes.cache.rewind(7)
            given = {"blocks.1.mlp.down.scale": scale * factor}
            outs.append(torch.func.functional_call(decoder, given, (tokens, passes.cache)))
    assert torch.equal(outs[0], outs[2]) and not torch.equal(outs[0], outs[1])


def test_every_change_of_a_module_is_counted_and_no_pass_counts_as_one(tmp_path: Path) -> None:
    decoder = loaded("llama", tmp_path)
    passes = Passes(decoder)
    passes.next()
    before = Counted.changes
    passes.next()
    assert Counted.changes == before, "each token would make its blocks ready anew"
    block = deepcopy(decoder).blocks[0]
    changes: list[Callable[[], object]] = [
        lambda: setattr(block, "site", block.site),
        lambda: block.mlp._buffers.update({"extra": None}),
        lambda: block.mlp._buffers.pop("extra"),
        lambda: block.mlp._modules.setdefault("extra", None),
        lambda: delattr(block.mlp, "extra"),
        lambda: block.mlp.register_buffer("extra", torch.zeros(1)),
        lambda: block.mlp.__delattr__("extra"),
    ]
    for number, change in enumerate(changes):
        before = Counted.changes
        change()
        assert Counted.changes > before, number


def test_a_cache_that_is_gone_is_not_kept(tmp_path: Path) -> None:
    decoder = loaded("llama", tmp_path)
    passes = Passes(decoder)
    passes.next()
    keys = ref(passes.cache.keys[0])
    del passes
    gc.collect()
    assert keys() is None
