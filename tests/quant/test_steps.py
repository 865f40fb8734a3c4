"""The small native steps against their plain twins, on every instruction path and with any number of threads."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cutaway.quant import native
from cutaway.quant.native import reference as plain
from tests.quant.helpers import forced, threads
from tests.tiny import noise

pytestmark = pytest.mark.skipif(not native.available, reason=f"no native library ({native.MISSING})")
each_path = pytest.mark.parametrize("path", native.paths())


def same(path: str, native: Callable[..., Tensor], twin: Callable[..., Tensor], *args: object) -> None:
    """Equal to the twin within rounding, and to itself bit for bit whatever the threads."""
    with forced(path), threads(1):
        mine = native(*args)
    torch.testing.assert_close(mine, twin(*args), rtol=2e-6, atol=2e-6, equal_nan=True)
    for count in (2, 3):
        with forced(path), threads(count):
            torch.testing.assert_close(native(*args), mine, rtol=0, atol=0, equal_nan=True)


@each_path
@pytest.mark.parametrize("width", [1, 5, 16, 100, 576])
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_norms(path: str, width: int, rows: int) -> None:
    x, w, b = noise(2, rows, width, scale=3.0) + 1.0, noise(width, seed=1), noise(width, seed=2)
    same(path, native.rms_norm, plain.rms_norm, x, w, 1e-5)
    same(path, native.layer_norm, plain.layer_norm, x, w, b, 1e-5)
    same(path, native.rms_norm, plain.rms_norm, x.transpose(0, 1), w, 1e-5)
    for bias, whole in ((None, native.rms_norm(x, w, 1e-5)), (b, native.layer_norm(x, w, b, 1e-5))):
        for which in range(3):
            pick = lambda norm: lambda *given: norm(*given)[which]  # noqa: B023, E731
            same(path, pick(native.norm_open), pick(plain.norm_open), x, w, bias, 1e-5)
        assert torch.equal(native.norm_open(x, w, bias, 1e-5)[-1], whole), "watched or not, the same bits"


@each_path
@pytest.mark.parametrize(("width", "pairs"), [(64, 32), (10, 5), (80, 16), (7, 2)])
@pytest.mark.parametrize(("b", "t", "shared"), [(1, 1, False), (3, 1, False), (1, 40, False), (2, 33, True)])
def test_rotate(path: str, width: int, pairs: int, b: int, t: int, shared: bool) -> None:
    whole = noise(b, t, 3 * 4 * width)
    angle = noise(1 if shared else b, t, 1, pairs)
    x = whole.unflatten(-1, (-1, width)).split((6, 3, 3), 2)[1]  # a view, as the joined q, k, v gives
    same(path, native.rotate, plain.rotate, x, (angle.cos(), angle.sin()))


@each_path
@pytest.mark.parametrize("width", [1, 30, 1536])
def test_silu_mul(path: str, width: int) -> None:
    gate, up = noise(2, 25, 2 * width, scale=8.0).chunk(2, -1)
    same(path, native.silu_mul, plain.silu_mul, gate, up)
    far = torch.tensor([[-200.0, -90.0, -20.0, 0.0, 20.0, 90.0, 200.0]])
    same(path, native.silu_mul, plain.silu_mul, far, torch.ones_like(far))


@each_path
@pytest.mark.parametrize(("tokens", "places", "causal"), [(1, 1, True), (5, 5, True), (70, 70, True), (3, 41, False)])
@pytest.mark.parametrize(("heads", "groups", "width"), [(9, 3, 64), (4, 4, 80), (2, 1, 5), (3, 3, 128)])
def test_attend_open(path: str, tokens: int, places: int, causal: bool, heads: int, groups: int, width: int) -> None:
    q = noise(2, tokens, (heads + 1) * width, scale=2.0)[..., :-width].unflatten(-1, (heads, width))
    keys, values = noise(2, 80, groups, width), noise(2, 80, groups, width, seed=1)  # more room than is filled
    keys, values = keys[:, :places], values[:, :places]
    for seen in (None, torch.ones(1, tokens, places) > 0, noise(2, tokens, places, seed=3) > 0):
        if seen is not None:
            seen = seen | (torch.arange(places) == torch.arange(tokens)[:, None])  # each sees itself
            seen = seen.tril() if causal else seen
        for which in range(3):
            pick = lambda attend: lambda *given: attend(*given)[which].contiguous()  # noqa: B023, E731
            same(path, pick(native.attend_open), pick(plain.attend_open), q, keys, values, causal, seen)
        with forced(path):
            shown, unseen = (f(q, keys, values, causal, seen) for f in (native.attend_open, native.attend_many))
        assert torch.equal(shown[-1], unseen), "watched or not, the same bits"


@each_path
@pytest.mark.parametrize("places", [1, 2, 17, 300])
@pytest.mark.parametrize(("heads", "groups", "width"), [(9, 3, 64), (4, 4, 80), (2, 1, 5), (3, 3, 128)])
def test_attend_one(path: str, places: int, heads: int, groups: int, width: int) -> None:
    keys, values = noise(2, groups, 310, width), noise(2, groups, 310, width, seed=1)
    q = noise(2, heads, width, seed=2, scale=2.0)
    seen, read = keys[:, :, :places], values[:, :, :places]
    same(path, native.attend_one, plain.attend_one, q, seen, read)
    mask = (noise(2, 310, seed=3) > 0).long()
    mask[:, places - 1] = 1  # a place sees itself
    for kind in (mask, mask.bool(), mask.int()):
        same(path, native.attend_one, plain.attend_one, q, seen, read, kind[:, :places])


@each_path
def test_what_a_hidden_place_holds_does_not_matter(path: str) -> None:
    q, keys, values = noise(1, 2, 16), noise(1, 2, 9, 16), noise(1, 2, 9, 16, seed=1)
    mask = torch.tensor([[0, 0, 1, 1, 0, 1, 1, 1, 1]])
    with forced(path):
        clean = native.attend_one(q, keys, values, mask)
        hidden = (mask == 0)[:, None, :, None]
        assert torch.equal(
            native.attend_one(q, keys.masked_fill(hidden, torch.nan), values.masked_fill(hidden, torch.inf), mask),
            clean,
        )
        assert native.attend_one(q, keys, values, mask * 0).isnan().all()  # softmax over nothing


def test_other_dtypes_take_the_plain_way() -> None:
    x, w = noise(2, 3, 8).double(), noise(8).double()
    assert torch.equal(native.rms_norm(x, w, 1e-5), plain.rms_norm(x, w, 1e-5))
    assert torch.equal(native.layer_norm(x, w, w, 1e-5), plain.layer_norm(x, w, w, 1e-5))
    assert torch.equal(native.silu_mul(x, x), plain.silu_mul(x, x))


def test_gradients_take_the_plain_way() -> None:
    x, w = noise(2, 3, 8).requires_grad_(), noise(8)
    native.rms_norm(x, w, 1e-5).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        assert not native.rms_norm(x, w, 1e-5).requires_grad
