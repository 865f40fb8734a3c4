"""The native ops against torch's, on every instruction set, with any number of threads; and each stage of attention
against the fused one, bit for bit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from cutaway.ground.errors import BadArgument
from cutaway.model.attention_mask import AttentionMask
from cutaway.model.decoder import Norm
from cutaway.model.ops import torch_ops
from cutaway.model.tap import Untapped, untapped
from cutaway.quant import native
from cutaway.quant.formats import Mode
from cutaway.quant.linear import Int8Linear
from cutaway.quant.ops import native_ops
from cutaway.text.pieces import Tokens
from cutaway.weights.checkpoint import open_checkpoint
from cutaway.weights.load import load_decoder
from tests.quant.helpers import threads, with_isa
from tests.tiny import CONFIGS, facts, noise, saved

pytestmark = pytest.mark.skipif(not native.available, reason=f"no native library ({native.MISSING})")
NAMES = [name for name in native.ACTIVATIONS if name in torch_ops.activation]
each_isa = pytest.mark.parametrize("isa", native.isas())


def same(isa: str, name: str, *args: object) -> Tensor:
    """The native op, equal to torch's within rounding, and to itself bit for bit whatever the threads."""
    find: Callable[[object], Callable[..., Tensor]] = lambda ops: (  # noqa: E731
        ops.activation[name] if name in torch_ops.activation else getattr(ops, name)  # type: ignore[attr-defined]
    )
    with with_isa(isa), threads(1):
        mine = find(native_ops)(*args)
    torch.testing.assert_close(mine, find(torch_ops)(*args), rtol=2e-6, atol=4e-6, equal_nan=True)
    for count in (2, 3):
        with with_isa(isa), threads(count):
            torch.testing.assert_close(find(native_ops)(*args), mine, rtol=0, atol=0, equal_nan=True)
    for other in native.isas():
        with with_isa(other):
            torch.testing.assert_close(find(native_ops)(*args), mine, rtol=0, atol=0, equal_nan=True)
    return mine


@each_isa
@pytest.mark.parametrize("width", [1, 5, 16, 100, 576])
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_means(isa: str, width: int, rows: int) -> None:
    x = noise(2, rows, width, scale=3.0) + 1.0
    for given in (x, x.transpose(0, 1)):
        same(isa, "mean", given)
        same(isa, "root_mean_square", given, 1e-5)


class Watching(Untapped):
    """It keeps what it sees, and may change it where that is said: then each value is computed by itself."""

    def __init__(self, changing: bool) -> None:
        self.changing, self.seen = changing, list[Tensor]()

    def __call__(self, name: str, value: Tensor) -> Tensor:
        self.seen.append(value)
        return value

    def wants(self, *names: str) -> bool:
        return True

    def changes(self, *names: str) -> bool:
        return self.changing


@each_isa
@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 5), (2, 100), (70, 576)])
def test_a_norm_in_one_pass_has_the_bits_of_its_parts(isa: str, rows: int, width: int, centered: bool) -> None:
    norm = Norm(replace(facts(CONFIGS["opt" if centered else "llama"]), d_model=width), "ln")
    for parameter in norm.parameters():
        parameter.data = noise(width, seed=3)
    x = noise(2, rows, width, scale=3.0) + 1.0
    with torch.no_grad(), with_isa(isa):
        for given in (x, x.transpose(0, 1)):
            norm.ops = torch_ops
            expected = norm(given, untapped)
            norm.ops, parts, watched = native_ops, Watching(True), Watching(False)
            torch.testing.assert_close(norm(given, parts), expected, rtol=2e-6, atol=4e-6)
            norm(given, watched)
            assert len(parts.seen) == len(watched.seen) == 3 and all(map(torch.equal, parts.seen, watched.seen))
            for count in (1, 2, 3):
                with threads(count):
                    (fused,) = native_ops.norm(given, norm.weight, norm.bias, norm.eps, centered, False) or ()
                    assert torch.equal(fused, parts.seen[2])
    norm.bias = None if centered else norm.weight
    with torch.no_grad(), with_isa(isa):  # LayerNorm without a bias, and RMSNorm with one
        (fused,) = native_ops.norm(x, norm.weight, norm.bias, norm.eps, centered, False) or ()
        assert torch.equal(fused, norm(x, Watching(True)))


@each_isa
@pytest.mark.parametrize(("width", "pairs"), [(64, 32), (10, 5), (80, 16), (7, 2)])
@pytest.mark.parametrize(("b", "t", "shared"), [(1, 1, False), (3, 1, False), (1, 40, False), (2, 33, True)])
def test_rotate(isa: str, width: int, pairs: int, b: int, t: int, shared: bool) -> None:
    angle = noise(1 if shared else b, t, 1, pairs)
    x = noise(b, t, 12 * width).unflatten(-1, (-1, width)).split((6, 3, 3), 2)[1]  # a view, as packed q, k, v give
    rotated = same(isa, "rotate", x, (angle.cos(), angle.sin()))
    assert torch.equal(rotated, torch_ops.rotate(x, (angle.cos(), angle.sin()))), "elementwise: torch's own bits"
    neighbours = same(isa, "rotate", x, (angle.cos(), angle.sin()), True)
    assert torch.equal(neighbours, torch_ops.rotate(x, (angle.cos(), angle.sin()), True))


@each_isa
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1, 30, 1536])
def test_activations(isa: str, name: str, width: int) -> None:
    same(isa, name, noise(2, 25, 2 * width, scale=4.0).chunk(2, -1)[0])
    same(isa, name, torch.tensor([[-200.0, -90.0, -20.0, -0.0, 0.0, 20.0, 90.0, 200.0, torch.nan]]))


@each_isa
def test_gelu_keeps_its_digits(isa: str) -> None:
    x = torch.linspace(-9, 9, 20_001)
    with with_isa(isa):
        error = (native_ops.activation["gelu"](x).double() - torch_ops.activation["gelu"](x.double())).abs()
    assert (error <= 2.5e-7 * x.abs()).all()  # torch's own in float32: 3.5e-7


@each_isa
@pytest.mark.parametrize("shape", [(1,), (2, 3, 5, 47), (70, 1000)])
def test_a_cap(isa: str, shape: tuple[int, ...]) -> None:
    x = noise(*shape, scale=60.0)
    same(isa, "softcap", x, 50.0)
    same(isa, "softcap", x * 1e-6, 50.0)
    same(isa, "softcap", torch.tensor([[-torch.inf, torch.inf, torch.nan, 0.0, -1e30, 1e-30]]), 30.0)


@each_isa
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (6, 100), (130, 576)])
def test_a_product_in_full_precision(isa: str, rows: int, width: int) -> None:
    x, weight, bias = noise(2, 40, width), noise(rows, width, seed=1, scale=width**-0.5), noise(rows, seed=2)
    whole = same(isa, "product", x, weight, bias)
    same(isa, "product", x, weight, None)
    with with_isa(isa):
        assert torch.equal(native_ops.product(x[1:, 7:8], weight, bias), whole[1:, 7:8]), "a token by itself"


@each_isa
@pytest.mark.parametrize(("experts", "chosen"), [(1, 1), (8, 2), (128, 8), (5, 5)])
def test_routing(isa: str, experts: int, chosen: int) -> None:
    logits = noise(2, 33, experts, scale=3.0)
    for normalized in (False, True):
        scores = same(isa, "route", logits, chosen, normalized)
        assert ((scores != 0).sum(-1) == chosen).all()
    with with_isa(isa):
        equal = native_ops.route(torch.zeros_like(logits), chosen, True)
        assert (equal[..., :chosen] == 1 / chosen).all() and (equal[..., chosen:] == 0).all(), "the first of equal ones"
        assert native_ops.route(logits.index_fill(-1, torch.tensor(0), torch.nan), chosen, True)[..., 0].isnan().all()


@each_isa
@pytest.mark.parametrize("positions", [1, 16, 47, 300])
def test_a_softmax_with_sinks(isa: str, positions: int) -> None:
    scores = noise(2, 4, 3, positions, scale=3.0)
    scores[:, :, 0, positions // 2 :] = -torch.inf
    scores[1, 2, 1] = -torch.inf  # a row of which the sink has all
    sinks = torch.tensor([-3.0, 0.0, 4.0, 200.0])
    pattern = same(isa, "softmax", scores, sinks)
    assert (pattern[1, 2, 1] == 0).all() and (pattern.sum(-1) < 1).all()
    with with_isa(isa):
        wider = native_ops.softmax(torch.nn.functional.pad(scores, (0, 21), value=-torch.inf), sinks)
        assert torch.equal(wider[..., :positions], pattern), "positions that are hidden, behind a text"


@each_isa
@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("tokens", [1, 40])
def test_a_gate_within_limits_in_one_product(isa: str, mode: Mode, tokens: int) -> None:
    linear = torch.nn.Linear(64, 96)
    linear.weight.data, linear.bias.data = noise(96, 64), noise(96, seed=1)
    layer, x = Int8Linear.from_linear(linear, mode), noise(1, tokens, 64)
    with torch.no_grad(), with_isa(isa):
        parts = layer(x).chunk(2, -1)
        post = native_ops.gate_within((7.0, 1.702), "silu", *parts)
        assert not torch.equal(post, torch_ops.gate("silu", *parts))
        for inside in (False, True):
            fused = native_ops.up(layer, "silu", True, x, (7.0, 1.702), inside) or ()
            assert all(map(torch.equal, fused, (*parts, post) if inside else (post,))) and len(fused) == 1 + 2 * inside


@each_isa
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1, 30, 1536])
def test_a_gate_in_one_pass_has_the_bits_of_its_parts(isa: str, name: str, width: int) -> None:
    gate, linear = noise(2, 25, 2 * width, scale=4.0).chunk(2, -1)
    fused = same(isa, "gate", name, gate, linear)
    with with_isa(isa):
        assert torch.equal(native_ops.gate(name, gate.contiguous(), linear), fused), "as an edit leaves it"
        assert torch.equal(native_ops.activation[name](gate) * linear, fused)


def test_gelu_has_the_same_bits_wherever_a_value_stands() -> None:
    x = noise(4096, scale=3.0)
    gelu, whole = native_ops.activation["gelu"], native_ops.activation["gelu"](x)
    assert (whole - torch.nn.functional.gelu(x.double())).abs().max() < 1e-6
    for start in range(9):
        for end in range(start + 1, start + 70):
            assert torch.equal(gelu(x[start:end]), whole[start:end])
            assert torch.equal(gelu(x[start:end].clone()), whole[start:end])
    assert torch.equal(gelu(x.view(64, 64)[:, 3:40]), whole.view(64, 64)[:, 3:40])


@pytest.mark.parametrize("batch", [1, 2])
def test_a_copy_of_any_view_is_the_value(batch: int) -> None:
    packed = noise(batch, 40, 12 * 64)
    heads = packed.unflatten(-1, (-1, 64)).split((6, 3, 3), 2)
    half = packed.chunk(2, -1)[1]
    for value in (packed, *heads, half, half[:, 3:], heads[0].transpose(1, 2), half[..., :1], half[:0], half[0, 0, 0]):
        to = torch.full(value.shape, torch.nan, dtype=torch.float32, device="cpu")
        assert native.copy(to, value) is to and torch.equal(to, value)


def attention(tokens: int, positions: int, heads: int, groups: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v as views of larger tensors, as packed products and caches give them."""
    q = noise(2, tokens, (heads + 1) * width, scale=2.0)[..., :-width].unflatten(-1, (heads, width))
    k, v = noise(2, positions + 9, groups, width, seed=1), noise(2, positions + 9, groups, width, seed=2)
    return q, k[:, :positions], v[:, :positions]


@each_isa
@pytest.mark.parametrize(
    ("tokens", "positions", "causal"),
    [(1, 1, False), (1, 17, False), (1, 300, False), (5, 5, True), (70, 70, True), (3, 41, False)],
)
@pytest.mark.parametrize(("heads", "groups", "width"), [(9, 3, 64), (4, 4, 80), (2, 1, 5), (3, 3, 128)])
def test_attention(isa: str, tokens: int, positions: int, causal: bool, heads: int, groups: int, width: int) -> None:
    q, k, v = attention(tokens, positions, heads, groups, width)
    itself = torch.arange(positions) == torch.arange(positions - tokens, positions)[:, None]
    for shared in (None, torch.ones(1, tokens, positions) > 0, noise(2, tokens, positions, seed=3) > 0):
        visible = None if shared is None else shared | itself
        visible = visible.tril() if visible is not None and causal else visible
        mask = AttentionMask(causal and visible is None, visible)
        scores = same(isa, "scores", q, k, mask)
        pattern = same(isa, "softmax", scores)
        z = same(isa, "mix", pattern, v)
        assert torch.equal(same(isa, "attend", q, k, v, mask), z), "watched or not, the same bits"
        by_head = scores.transpose(1, 2).contiguous().transpose(1, 2)  # as an edit leaves it
        with with_isa(isa):
            assert torch.equal(native_ops.mix(native_ops.softmax(by_head), v.clone()), z)


@each_isa
def test_what_a_hidden_position_holds_does_not_matter_to_one_token(isa: str) -> None:
    q, k, v = attention(1, 9, 2, 2, 16)
    visible = torch.tensor([0, 0, 1, 1, 0, 1, 1, 1, 1]).bool().expand(2, 1, 9)
    hidden = ~visible[:, 0, :, None, None]
    with with_isa(isa):
        clean = native_ops.attend(q, k, v, AttentionMask(False, visible))
        dirty = k.masked_fill(hidden, torch.nan), v.masked_fill(hidden, torch.inf)
        assert torch.equal(native_ops.attend(q, *dirty, AttentionMask(False, visible)), clean)
        assert native_ops.attend(q, k, v, AttentionMask(False, visible & False)).isnan().all()  # a softmax of nothing


@each_isa
@pytest.mark.parametrize(("heads", "groups", "width"), [(9, 3, 64), (4, 4, 80), (2, 1, 5), (14, 2, 24)])
def test_a_row_of_a_prompt_has_the_bits_of_one_token_over_a_cache(
    isa: str, heads: int, groups: int, width: int
) -> None:
    length = 203  # several chunks of tokens and panels of positions, none of them whole
    q, k, v = attention(length, length, heads, groups, width)
    with with_isa(isa), threads(2):
        prompt = native_ops.attend(q, k, v, AttentionMask(True))
        assert torch.equal(native_ops.attend(q[:1], k[:1], v[:1], AttentionMask(True)), prompt[:1]), "alone"
        for t in (0, 1, 31, 32, 47, 48, 130, 202):
            token = q[:, t : t + 1], k[:, : t + 1], v[:, : t + 1]
            assert torch.equal(native_ops.attend(*token, AttentionMask(False)), prompt[:, t : t + 1]), t
            part = native_ops.attend(q[:, : t + 1], *token[1:], AttentionMask(t > 0))
            assert torch.equal(part, prompt[:, : t + 1]), t


@each_isa
def test_what_a_hidden_position_holds_does_not_matter_to_a_prompt(isa: str) -> None:
    q, k, v = attention(60, 60, 3, 1, 40)
    slots = torch.arange(60)
    padding = (slots < 7) | (slots == 20)
    visible = (slots <= slots[:, None]) & ~padding | (slots == slots[:, None])
    real = ~padding[None, :, None, None]
    later = (slots > 50)[None, :, None, None]
    with with_isa(isa):
        mask = AttentionMask(False, visible.expand(2, 60, 60))
        clean, dirty = (native_ops.attend(q, k, values, mask) for values in (v, v.masked_fill(~real, torch.nan)))
        assert torch.equal(clean[:, ~padding], dirty[:, ~padding]) and dirty[:, padding].isnan().all()
        causal = [
            native_ops.attend(q, k, values, AttentionMask(True)) for values in (v, v.masked_fill(later, torch.nan))
        ]
        assert torch.equal(causal[0][:, :51], causal[1][:, :51])


def test_what_the_library_does_not_take_is_torchs() -> None:
    x = noise(2, 3, 8).double()
    assert torch.equal(native_ops.mean(x), torch_ops.mean(x))
    assert torch.equal(native_ops.root_mean_square(x, 1e-5), torch_ops.root_mean_square(x, 1e-5))
    assert torch.equal(native_ops.activation["silu"](x), torch_ops.activation["silu"](x))
    q, k, v = (part.bfloat16() for part in attention(4, 4, 2, 2, 8))
    assert native_ops.attend(q, k, v, AttentionMask(True)).dtype == torch.bfloat16
    wide = noise(2, 3, 8).requires_grad_()
    native_ops.root_mean_square(wide, 1e-5).sum().backward()
    assert wide.grad is not None
    with torch.no_grad():
        assert not native_ops.root_mean_square(wide, 1e-5).requires_grad


def test_values_of_different_passes_are_refused() -> None:
    q, k, v = attention(4, 4, 4, 2, 8)
    scores = native_ops.scores(q, k, AttentionMask(True))
    calls = (
        lambda: native_ops.scores(q, k[..., :4], AttentionMask(True)),
        lambda: native_ops.mix(scores, v[:, :2]),
        lambda: native_ops.attend(q, k, v[:1], AttentionMask(True)),
    )
    for wrong in calls:
        with pytest.raises(BadArgument, match="attention over"):
            wrong()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch itself calls it there
def test_a_forward_derivative_is_torchs() -> None:
    x, tangent = noise(3, 8), noise(3, 8, seed=1)
    expected = torch.func.jvp(lambda x: torch_ops.root_mean_square(x, 1e-5), (x,), (tangent,))[1]
    assert torch.equal(torch.func.jvp(lambda x: native_ops.root_mean_square(x, 1e-5), (x,), (tangent,))[1], expected)


@pytest.mark.parametrize("mode", get_args(Mode))
def test_gradients_flow_through_a_quantized_decoder(mode: Mode, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(saved("llama-gqa", tmp_path)[0])
    decoder = load_decoder(checkpoint, dtype=torch.float32, device="cpu", quantize=mode)
    assert decoder.blocks[0].mlp.ops is native_ops
    entered: list[Tensor] = []

    class Enter(Untapped):
        """Makes the first residual stream a leaf with a gradient."""

        def __call__(self, name: str, value: Tensor) -> Tensor:
            if name != "blocks.0.resid_pre":
                return value
            entered.append(value.detach().requires_grad_())
            return entered[0]

    decoder(Tokens.from_ids([[3, 5, 7, 2]]), tap=Enter())[:, -1].logsumexp(-1).sum().backward()
    gradient = entered[0].grad
    assert gradient is not None and gradient.isfinite().all() and gradient.abs().max() > 0
