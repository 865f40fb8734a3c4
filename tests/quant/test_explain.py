"""Explained layers: every part recomputed from the definition, and their sum the layer's own output."""

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from cutaway.ground.errors import BadArgument
from cutaway.ground.sites import all_sites
from cutaway.lm import LM
from cutaway.quant import native
from cutaway.quant.explain import explain, int8_layers, layer_input, layer_input_sites
from cutaway.quant.formats import Mode
from cutaway.quant.linear import Int8Linear
from tests.quant.helpers import relative
from tests.tiny import noise

MODES = get_args(Mode)
BATCH, POSITIONS, K, N = 2, 5, 77, 50


def made(mode: str, bias: bool = True) -> tuple[Int8Linear, Tensor, Tensor]:
    """A layer, its original weight, and an input with outliers in two columns."""
    full = nn.Linear(K, N, bias=bias).requires_grad_(False)
    full.weight.data = noise(N, K)
    x = noise(BATCH, POSITIONS, K, seed=5)
    x[0, 1, 7], x[1, 3, 70], x[1, 4, 7] = 9.0, -31.0, -6.0
    return Int8Linear.from_linear(full, mode), full.weight, x  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_parts_are_the_layers_own_output(mode: str, bias: bool, dtype: torch.dtype):
    layer, _, x = made(mode, bias)
    x = x.to(dtype)
    told = explain(layer, x)
    assert told.result.dtype == dtype and told.result.shape == (BATCH, POSITIONS, N)
    own = layer(x)
    assert relative(told.result, own) < (1e-6 if dtype == torch.float32 else 2**-8)
    parts = told.inlier_part.double() + told.outlier_part.double() + (0 if layer.bias is None else layer.bias.double())
    assert relative(parts, own) < (1e-6 if dtype == torch.float32 else 2**-8)


def test_codes_scales_and_outliers_of_llm_int8_by_their_definition():
    layer, weight, x = made("llm-int8")
    told = explain(layer, x, weight)
    assert torch.equal(told.weight_scale, weight.abs().amax(1))
    assert torch.equal(told.weight_codes, (weight * (127 / told.weight_scale)[:, None]).round().to(torch.int8))
    assert told.outlier.nonzero().tolist() == [[0, 1, 7], [1, 3, 70], [1, 4, 7]]
    assert told.outlier_columns.tolist() == [7, 70]
    below = torch.where(x.abs() >= 6, 0, x)
    assert torch.equal(told.activation_scale, below.abs().amax(-1))
    near = below * (127 / told.activation_scale)[..., None]
    assert (told.activation_codes - near).abs().max() <= 0.5 + 1e-4
    assert (told.activation_codes[told.outlier] == 0).all()
    torch.testing.assert_close(told.dequantized, told.weight_codes * told.weight_scale[:, None] / 127)


def test_codes_and_scales_of_int8_by_their_definition():
    layer, weight, x = made("int8")
    told = explain(layer, x, weight)
    for group, columns in enumerate((slice(0, 32), slice(32, 64), slice(64, 77))):
        largest = weight[:, columns].abs().amax(1)
        assert torch.equal(told.weight_scale[:, group], (largest / 127).half())
        near = weight[:, columns] * (127 / largest)[:, None]
        assert (told.weight_codes[:, columns] - near).abs().max() <= 0.5 + 1e-4
        expected = told.weight_codes[:, columns] * told.weight_scale[:, group, None].float()
        assert torch.equal(told.dequantized[:, columns], expected)
    assert not told.outlier.any() and not told.outlier_part.any() and told.outlier_columns.tolist() == []
    assert told.activation_codes.dtype == torch.int16
    for group, part in enumerate(x.split(32, -1)):
        assert torch.equal(told.activation_scale[..., group], part.abs().amax(-1) / 32767)
        near = part / told.activation_scale[..., group, None]
        assert (told.activation_codes.split(32, -1)[group] - near).abs().max() <= 0.5 + 1e-2
    assert torch.equal(told.result, layer(x)) or not native.available


@pytest.mark.parametrize(("mode", "scales", "most"), [("int8", 2 * 3 * N, 0.008), ("llm-int8", 4 * N, 0.02)])
def test_shares_errors_and_bytes_by_their_definition(mode: str, scales: int, most: float):
    layer, weight, x = made(mode)
    told = explain(layer, x, weight)
    assert layer.bias is not None
    if mode == "int8":
        assert not told.outlier_share.any()
    else:
        outliers = torch.where(x.abs() >= 6, x, 0).double() @ layer.weight.double().T
        share = outliers.norm(dim=-1) / layer(x).double().norm(dim=-1)
        torch.testing.assert_close(told.outlier_share.double(), share, rtol=1e-5, atol=0)
        assert (told.outlier_share > 0).sum() == 3
    full = x.double() @ weight.double().T + layer.bias.double()
    error = (layer(x).double() - full).norm(dim=-1) / full.norm(dim=-1)
    assert told.error is not None
    torch.testing.assert_close(told.error.double(), error, rtol=1e-4, atol=0)
    assert error.min() > 0 and error.max() < most
    assert told.bytes == N * K + scales
    saved = {"float32": 4 * N * K, "bfloat16": 2 * N * K, "float16": 2 * N * K}
    assert told.bytes_saved == {name: size - N * K - scales for name, size in saved.items()}
    assert explain(layer, x).error is None


@pytest.mark.parametrize("mode", MODES)
def test_one_output_is_one_number_of_the_result(mode: str):
    layer, _, x = made(mode)
    told = explain(layer, x)
    columns = {"int8": {(0, 0): (), (1, 3): ()}, "llm-int8": {(0, 0): (), (1, 3): (70,)},
               "llm-int8-pooled": {(0, 0): (7, 70), (1, 3): (7, 70)}}  # fmt: skip
    for at in ((0, 0), (1, 3)):
        for row in (0, 17):
            one = told.output(at, row)
            assert one.value == pytest.approx(float(layer(x)[at][row]), rel=1e-4, abs=1e-5)
            assert one.outlier == pytest.approx(float(told.outlier_part[at][row]), abs=1e-5)
            assert one.bias == pytest.approx(float(layer.bias[row]))  # type: ignore[index]
            pairs = [a * b for a, b in zip(one.activation_codes.tolist(), one.weight_codes.tolist(), strict=True)]
            starts = range(0, K, 32 if mode == "int8" else K)
            assert one.products == tuple(sum(pairs[start : start + starts.step]) for start in starts)
            assert one.weight_scales == tuple(layer.scale[row].float().reshape(-1).tolist())
            scaled = zip(one.products, one.weight_scales, one.activation_scales, strict=True)
            expected = sum(a * b * c for a, b, c in scaled) / (1 if mode == "int8" else 127**2)
            assert one.inlier == pytest.approx(expected, rel=1e-5)
            assert one.outlier_columns == columns[mode][at]


@pytest.mark.parametrize("mode", ["int8", "llm-int8"])
def test_edges_a_row_of_zeros_and_one_that_is_not_a_number(mode: str):
    layer, weight, x = made(mode)
    x[0, 0], x[0, 2, 3] = 0.0, torch.nan
    told = explain(layer, x, weight)
    assert told.outlier_share[0, 0] == 0 and torch.equal(told.result[0, 0], layer.bias)
    assert told.result[0, 2].isnan().all() and layer(x)[0, 2].isnan().all()
    assert told.result[1].isfinite().all()


def test_what_is_not_this_layers_is_refused():
    layer, weight, x = made("int8")
    with pytest.raises(BadArgument, match=r"an input \[2, 5, 76\]; expected \[..., 77\]"):
        explain(layer, x[..., :-1])
    with pytest.raises(BadArgument, match=r"a weight \[77, 50\]; expected \[50, 77\]"):
        explain(layer, x, weight.T)


def test_every_8_bit_layer_has_a_site_that_is_its_input(int8: LM):
    """What each layer is called with, seen by a hook, is the value of its site."""
    sites = layer_input_sites(int8.config)
    layers = int8_layers(int8.decoder)
    assert set(sites) == set(layers) and set(sites.values()) <= set(all_sites(int8.config))
    trace = int8.trace(["the cat sat", "the dog ran to the mat"], list(sites.values()))
    for name, layer in layers.items():
        seen: list[Tensor] = []
        hook = layer.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
        int8.logits(trace.tokens)
        hook.remove()
        x = layer_input(int8.decoder, name, trace[sites[name]])
        torch.testing.assert_close(x, seen[0], rtol=1e-5, atol=1e-5)


def test_a_recorded_input_explains_the_recorded_output(int8: LM):
    attn_out, mlp_out = ("attn.out", "mlp.out") if int8.config.scales_added else ("attn_out", "mlp_out")
    names = {"blocks.1.attn.qkv": "blocks.1.attn.q", "blocks.1.attn.out": f"blocks.1.{attn_out}",
             "blocks.1.mlp.down": f"blocks.1.{mlp_out}"}  # fmt: skip
    names |= {} if int8.config.logit_softcap else {"unembed.head": "logits"}
    sites = layer_input_sites(int8.config)
    trace = int8.trace("the cat sat on the mat", [*names.values(), *(sites[name] for name in names)])
    for name, out in names.items():
        told = explain(int8_layers(int8.decoder)[name], layer_input(int8.decoder, name, trace[sites[name]]))
        value = trace[out].flatten(2)
        assert relative(told.result[..., : value.shape[-1]], value) < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_the_inputs_shares_of_the_error_sum_to_it(mode: str):
    layer, weight, x = made(mode)
    told, at = explain(layer, x, weight), (1, 3)
    shares, error = told.error_shares(at), told.error
    assert shares is not None and error is not None
    torch.testing.assert_close(shares.sum(), torch.tensor(1.0))
    full = x[at] @ weight.T + layer.bias
    torch.testing.assert_close(told.dequantized @ told.read[at] + layer.bias, told.result[at], rtol=1e-4, atol=1e-4)
    whole = (told.dequantized * told.read[at] - weight * x[at]).sum(1)
    torch.testing.assert_close(whole.norm() / full.norm(), error[at], rtol=1e-3, atol=1e-6)
    assert explain(layer, x).error_shares(at) is None
