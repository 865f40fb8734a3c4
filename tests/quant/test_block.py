"""Blocks in one native call: the bits of their steps one by one, and never past anything that was replaced."""

import gc
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from weakref import ref

import pytest
import torch
from torch import nn

from cutaway.model.cache import Cache
from cutaway.model.counted import Counted
from cutaway.model.decoder import Decoder
from cutaway.model.tap import Tap, Untapped, untapped
from cutaway.quant import kernels
from cutaway.quant.linear import Int8Linear
from cutaway.text.pieces import Tokens
from cutaway.weights.load import load_decoder, open_checkpoint
from tests.parity.tiny import CONFIGS, saved

pytestmark = pytest.mark.skipif(not kernels.available, reason=f"no native library: {kernels.MISSING}")
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
    inner = kernels.BlockRun.__call__

    def counted(self: kernels.BlockRun, *args: object) -> torch.Tensor:
        runs.append(len(self.blocks))
        return inner(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(kernels.BlockRun, "__call__", counted)
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


def new_norm(decoder: Decoder) -> None:
    block = decoder.blocks[1]
    block.ln2.weight = nn.Parameter(block.ln2.weight.detach() * 1.5)


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


@pytest.mark.parametrize(
    "change",
    [new_norm, new_layer, new_scale, new_codes_in_place, another_mode, a_hook, a_hook_on_a_block, another_forward,
     a_block_less],
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
