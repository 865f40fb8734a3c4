"""Formulas evaluated: the value of a site recomputed from its parents, as ground/sites.py writes it.

Slow and literal on purpose: it shares no line with the decoder, so that each can check the other. It does not know
which values were recorded.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from cutaway.ground.layers import expert_of, site_weights
from cutaway.ground.sites import all_sites
from cutaway.model.decoder import Decoder
from cutaway.model.positions import frequencies
from cutaway.quant import formats
from cutaway.quant.formats import Mode
from cutaway.quant.linear import Int8Linear
from cutaway.text.pieces import Tokens

# Facts that formulas name.
NUMBERS = (
    "embed_scale", "resid_scale", "logit_scale", "logit_softcap", "attn_softcap", "qkv_clip", "position_offset",
    "experts_per_token", "mlp_limit", "mlp_alpha",
)  # fmt: skip


def recompute(name: str, values: Mapping[str, Tensor], tokens: Tokens, decoder: Decoder) -> Tensor:
    """The value of site `name` from the values of its parents, by its formula."""
    site = all_sites(decoder.config)[name]
    block = re.match(r"blocks\.\d+\.", name)
    given = {"ids": tokens.ids, "mask": tokens.mask, "positions": tokens.positions}
    layer = int(block[0].split(".")[1]) if block else 0
    names = SimpleNamespace(**_functions(decoder, tokens, layer), **_weights(decoder, name), **given)
    for i, parent in enumerate(site.parents):
        full = (block[0] if block else "") + parent
        value = given[parent] if parent in given else values[full if full in values else parent]
        _set(names, parent, value)
        if i == 0:
            names.x = value
    return eval(site.formula, {"__builtins__": {}}, vars(names))


def _set(names: SimpleNamespace, dotted: str, value: Tensor) -> None:
    """names.a.b = value for "a.b"; no formula holds a block's number ("blocks.0.")."""
    *path, leaf = dotted.split(".")
    for part in path:
        if not hasattr(names, part):
            setattr(names, part, SimpleNamespace())
        names = getattr(names, part)
    setattr(names, leaf, value)


def _functions(decoder: Decoder, tokens: Tokens, layer: int) -> dict[str, Any]:
    """The functions and numbers that a formula of this layer may use."""
    config = decoder.config
    sharing, window = config.n_heads // config.n_kv_heads, config.window_of(layer)

    def hide(scores_BHTS: Tensor) -> Tensor:
        t = scores_BHTS.shape[-1]
        all_TS = torch.ones(t, t, dtype=torch.bool, device=tokens.mask.device)
        itself_TS = torch.eye(t, dtype=torch.bool, device=tokens.mask.device)
        within_BTS = all_TS.tril()
        if window is not None:
            position_BT = (tokens.mask.cumsum(-1) - 1).clamp(min=0)
            within_BTS = within_BTS & (position_BT[:, :, None] - position_BT[:, None] < window)
        attended_BTS = (within_BTS & tokens.mask[:, None].bool()) | itself_TS
        return scores_BHTS.masked_fill(~attended_BTS[:, None], -math.inf)

    def mix(pattern_BHTS: Tensor, v_BSHK: Tensor) -> Tensor:
        if v_BSHK.is_cuda or v_BSHK.dtype != torch.float32:
            return torch.einsum("bhts,bshk->bthk", pattern_BHTS, v_BSHK)
        b, h, t, _ = pattern_BHTS.shape
        z_BTHK = torch.zeros(b, t, h, v_BSHK.shape[-1], dtype=torch.float32, device=v_BSHK.device)
        # One position after the other, each product rounded: the order in which the native kernel adds.
        for pattern_BHT, v_BHK in zip(pattern_BHTS.unbind(-1), v_BSHK.unbind(1), strict=True):
            z_BTHK = z_BTHK + pattern_BHT.mT[..., None] * v_BHK[:, None]
        return z_BTHK

    def mean(x: Tensor) -> Tensor:
        return x.mean(-1, keepdim=True)

    return {
        "eps": config.norm_eps,
        "d_head": config.d_head,
        **{name: getattr(config, name) for name in NUMBERS},
        "attn_scale": config.scale_of(layer),
        "sqrt": lambda x: x**0.5,
        "mean": mean,
        "variance": lambda x: mean((x - mean(x)) ** 2),
        "at_least": lambda x, low: x.clamp(min=low),
        "at_most": lambda x, high: x.clamp(max=high),
        "clip": lambda x, most: x.clamp(-most, most),
        "softcap": lambda x, cap: cap * torch.tanh(x / cap),
        "heads": lambda x: x.unflatten(-1, (-1, config.d_head)),
        "concat_heads": lambda z: z.flatten(-2),
        "shared": lambda x: x.repeat_interleave(sharing, 2),
        "dot": lambda q, k: torch.einsum("bthk,bshk->bhts", q, k),
        "mix": mix,
        "largest": lambda x, count: torch.where(x >= x.topk(count).values[..., -1:], x, 0.0),
        "share": lambda x: x / x.sum(-1, keepdim=True),
        "where_chosen": lambda scores, x: torch.where(scores[..., None] != 0, x, 0.0),
        "weighed": lambda scores, x: (scores[..., None] * x).sum(-2),
        "softmax": _softmax,
        "hide": hide,
        "alibi": _alibi(decoder),
        "rotate": _rotate(decoder, layer),
        "relu": lambda x: x.clamp(min=0),
        "relu2": lambda x: x.clamp(min=0) ** 2,
        "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
        "gelu_tanh": lambda x: x * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "silu": lambda x: x / (1 + torch.exp(-x)),
    }


def _softmax(scores: Tensor, sinks_H: Tensor | None = None) -> Tensor:
    """Over the last axis; with sinks, of scores [B, H, T, S], each row's sum has one more term."""
    if sinks_H is None:
        return scores.softmax(-1)
    largest = torch.maximum(scores.amax(-1, keepdim=True), sinks_H[:, None, None])
    terms = (scores - largest).exp()
    return terms / (terms.sum(-1, keepdim=True) + (sinks_H[:, None, None] - largest).exp())


def _alibi(decoder: Decoder) -> Callable[[Tensor], Tensor]:
    """Slope x position, position by position."""

    def alibi(mask: Tensor) -> Tensor:
        facts = decoder.config.alibi
        assert facts is not None, "only models with it have sites with this formula"
        positions_BS = (mask.cumsum(-1) - 1).clamp(min=0)
        dtype = torch.bfloat16 if facts.bfloat16 else torch.float64
        products = [
            positions_BS.to(dtype) * torch.tensor(slope, dtype=dtype, device=mask.device) for slope in facts.slopes
        ]
        return torch.stack(products, 1)[:, :, None].double() * facts.scale

    return alibi


def _rotate(decoder: Decoder, layer: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Each pair as a complex number, rotated by multiplication: another way to the same rotation."""

    def rotate(x: Tensor, positions: Tensor) -> Tensor:
        rope = decoder.config.rope_of(layer)
        assert rope is not None, "only rotary layers have sites with this formula"
        long = int(positions.max()) >= rope.original_context
        angle = positions[:, :, None, None] * frequencies(rope, long=long).to(positions.device)
        half = rope.dims // 2
        firsts, seconds = (
            (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
            if rope.interleaved
            else (slice(0, half), slice(half, 2 * half))
        )
        rotated = torch.complex(x[..., firsts].double(), x[..., seconds].double())
        rotated = rotated * torch.polar(torch.full_like(angle, rope.attention_factor), angle)
        out = x.clone()
        out[..., firsts], out[..., seconds] = rotated.real.to(x.dtype), rotated.imag.to(x.dtype)
        return out

    return rotate


def _weights(decoder: Decoder, name: str) -> dict[str, Any]:
    """The weights and biases that the site's formula names: W_Q, b_Q, w ..."""
    values: dict[str, Any] = {}
    biases: dict[str, list[Tensor]] = {}
    for weight in (weights := site_weights(decoder.config, name)):
        layer = cast(Any, decoder.get_submodule(weight.module))
        values.setdefault(weight.symbol, []).append(_weight(layer)[weight.rows])
        if weight.bias and layer.bias is not None:  # else the formula fails on it
            biases.setdefault(weight.bias, []).append(layer.bias[weight.rows])
    if any(expert_of(weight.module) is not None for weight in weights):
        values = {symbol: _Experts(each) for symbol, each in values.items()}
        return values | {symbol: torch.stack(each) for symbol, each in biases.items()}
    return {symbol: each[0] for symbol, each in (values | biases).items()}


class _Codes:
    """A weight in 8 bits as a formula writes one: x @ W.T is then the product of its mode."""

    def __init__(self, codes_NK: Tensor, scale: Tensor, mode: str) -> None:
        self.codes_NK, self.scale, self.mode = codes_NK, scale, mode

    @property
    def T(self) -> "_Codes":  # noqa: N802  as a tensor's
        return self

    def __getitem__(self, rows: slice) -> "_Codes":
        return _Codes(self.codes_NK[rows], self.scale[rows], self.mode)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Tensor:
        """Called by torch for x @ self."""
        x, codes = args
        return formats.linear(x, codes.codes_NK, codes.scale, mode=cast(Mode, codes.mode))


class _Experts:
    """A weight of each expert as a formula writes one: x @ W.T are all their products, [B, T, X, ...]."""

    def __init__(self, weights: Sequence[Any]) -> None:
        self.weights = weights

    @property
    def T(self) -> "_Experts":  # noqa: N802  as a tensor's
        return _Experts([weight.T for weight in self.weights])

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Tensor:
        """Called by torch for x @ self; x [B, T, D] of all experts, or [B, T, X, F] of each its own."""
        x, experts = args
        each = x.unbind(2) if x.ndim == 4 else [x] * len(experts.weights)
        return torch.stack([x @ weight for x, weight in zip(each, experts.weights, strict=True)], 2)


def _weight(layer: Any) -> Any:
    """A layer's weight, or its codes."""
    return _Codes(layer.codes, layer.scale, layer.mode) if isinstance(layer, Int8Linear) else layer.weight
