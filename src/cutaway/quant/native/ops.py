"""The decoder's ops by the native library: float32 on the CPU, any number of threads, the same bits for any of them.

`usable` says what the library takes; nothing else is checked. It does not know blocks, caches or names of values.
"""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor, get_num_threads
from torch.autograd import forward_ad

from cutaway.ground.errors import BadArgument
from cutaway.quant.native.library import LIBRARY
from cutaway.quant.native.pages import empty, recorded

ACTIVATIONS = {"identity": 0, "relu": 1, "silu": 2, "gelu_tanh": 3, "gelu": 4, "relu2": 5}
NORM_KINDS = {None: 0, "rms": 1, "layer": 2}
SCORES, SOFTMAX, MIX = 1, 2, 4  # stages of attention: calls.h

# The torch.func transform under way, whose tensors have no memory of their own; torch has no public name for it.
transform = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", lambda: None)


def usable(*tensors: Tensor) -> bool:
    """Whether the library can take these: float32 on the CPU, with no derivative wanted, forward or backward."""
    grad = torch.is_grad_enabled()
    if getattr(forward_ad, "_current_level", -1) >= 0 or transform() is not None:
        return False
    for t in tensors:  # a plain loop: this runs hundreds of times a token
        if t.dtype is not torch.float32 or not t.is_cpu or (grad and t.requires_grad):
            return False
    return LIBRARY is not None


def mean(x: Tensor) -> Tensor:
    """Of the last axis, [..., 1]."""
    assert LIBRARY is not None
    x, out = x.contiguous(), x.new_empty((*x.shape[:-1], 1))
    LIBRARY.cutaway_mean(x.data_ptr(), out.numel(), x.shape[-1], out.data_ptr(), get_num_threads())
    return out


def root_mean_square(x: Tensor, eps: float) -> Tensor:
    """The root of the last axis's mean square + eps, [..., 1]."""
    assert LIBRARY is not None
    x, out = x.contiguous(), x.new_empty((*x.shape[:-1], 1))
    LIBRARY.cutaway_root_mean_square(x.data_ptr(), out.numel(), x.shape[-1], eps, out.data_ptr(), get_num_threads())
    return out


class NormParts(NamedTuple):
    """LayerNorm (centered) or RMSNorm: gain and bias [D], contiguous, or None; offset: added to the gain."""

    weight: Tensor | None
    bias: Tensor | None
    eps: float
    centered: bool
    offset: float = 0.0


class NormStruct(ctypes.Structure):
    """isa.h holds the same struct, Norm: change both together."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("w", "b")),
        *((name, ctypes.c_float) for name in ("eps", "offset")),
        ("kind", ctypes.c_int32),
    )


def norm_struct(norm: NormParts | None) -> NormStruct:
    if norm is None:
        return NormStruct()
    weight, bias = norm.weight, norm.bias
    return NormStruct(
        None if weight is None else weight.data_ptr(), None if bias is None else bias.data_ptr(), norm.eps, norm.offset,
        NORM_KINDS["layer" if norm.centered else "rms"],
    )  # fmt: skip


def norm(x: Tensor, parts: NormParts, inside: bool = False) -> tuple[Tensor, ...]:
    """Over the last axis: (out,), or with what lies inside (scale [..., 1], normalized, out)."""
    assert LIBRARY is not None
    x = x.contiguous()
    out, width, struct = recorded(x.shape, x) if inside else torch.empty_like(x), x.shape[-1], norm_struct(parts)
    within = (recorded((*x.shape[:-1], 1), x), recorded(x.shape, x)) if inside else ()
    pointers = (part.data_ptr() for part in within) if inside else (None, None)
    LIBRARY.cutaway_norm(
        x.data_ptr(), x.numel() // width, width, ctypes.addressof(struct), *pointers, out.data_ptr(), get_num_threads()
    )
    return *within, out


def float_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., D] · weight [N, D], + bias [N], in float32, the last two contiguous: [..., N]."""
    assert LIBRARY is not None
    x, out = x.contiguous(), x.new_empty((*x.shape[:-1], len(weight)))
    LIBRARY.cutaway_float_product(
        x.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr(), x.shape[:-1].numel(), *weight.shape,
        out.data_ptr(), get_num_threads(),
    )  # fmt: skip
    return out


def route(logits: Tensor, chosen: int, normalized: bool) -> Tensor:
    """Each expert's score, of logits [..., X]: model/ops.py says which; of equal ones the first is larger."""
    assert LIBRARY is not None
    logits, out = logits.contiguous(), torch.empty_like(logits, memory_format=torch.contiguous_format)
    tokens, experts = logits.shape[:-1].numel(), logits.shape[-1]
    LIBRARY.cutaway_route(logits.data_ptr(), tokens, experts, chosen, normalized, out.data_ptr())
    return out


def softcap(x: Tensor, cap: float) -> Tensor:
    """cap · tanh(x / cap); -inf stays."""
    assert LIBRARY is not None
    x = x.contiguous()
    out = torch.empty_like(x)
    LIBRARY.cutaway_softcap(x.data_ptr(), x.numel(), cap, out.data_ptr(), get_num_threads())
    return out


def activate(name: str, x: Tensor, times: Tensor | None = None) -> Tensor:
    """One of ACTIVATIONS, element by element, then multiplied by `times`, of x's shape."""
    assert LIBRARY is not None
    rows, out = _rows(x), torch.empty_like(x, memory_format=torch.contiguous_format)
    factor = None if times is None else _rows(times)
    LIBRARY.cutaway_activate(
        ACTIVATIONS[name], rows.data_ptr(), None if factor is None else factor.data_ptr(), *rows.shape, rows.stride(0),
        0 if factor is None else factor.stride(0), out.data_ptr(), get_num_threads(),
    )  # fmt: skip
    return out


def _rows(x: Tensor) -> Tensor:
    """[rows, width], a view also of one half of a packed matrix's outputs."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    return x[0] if x.ndim == 3 and len(x) == 1 else x.reshape(-1, x.shape[-1])


def rotate(x_BTHK: Tensor, cos_sin: tuple[Tensor, Tensor], interleaved: bool = False) -> Tensor:
    """Each head's pairs (first half, second half; interleaved: two neighbours) by their angles; cos and sin
    [B or 1, T, 1, pairs]."""
    assert LIBRARY is not None
    (b, t, h, k), (text, token, head, one) = x_BTHK.shape, x_BTHK.stride()
    cos, sin = cos_sin if len(cos_sin[0]) == b else (part.expand(b, -1, -1, -1) for part in cos_sin)
    if one != 1 or not (b == 1 or t == 1 or text == t * token):
        x_BTHK = x_BTHK.contiguous()
        text, token, head, _ = x_BTHK.stride()
    cos, sin, out = cos.contiguous(), sin.contiguous(), torch.empty_like(x_BTHK, memory_format=torch.contiguous_format)
    LIBRARY.cutaway_rotate(
        x_BTHK.data_ptr(), cos.data_ptr(), sin.data_ptr(), b * t, h, k, cos.shape[-1], token if t > 1 else text, head,
        interleaved, out.data_ptr(), get_num_threads(),
    )  # fmt: skip
    return out


def cos_sin(angle: Tensor) -> tuple[Tensor, Tensor]:
    """Of each angle, in radians."""
    assert LIBRARY is not None
    angle = angle.contiguous()
    cos, sin = torch.empty_like(angle), torch.empty_like(angle)
    LIBRARY.cutaway_cos_sin(angle.data_ptr(), angle.numel(), cos.data_ptr(), sin.data_ptr(), get_num_threads())
    return cos, sin


def copy(to: Tensor, x: Tensor) -> Tensor:
    """`to`, contiguous, with the values of x: past the caches, as for what is not read soon."""
    if to.shape != x.shape or not to.is_contiguous() or not usable(to, x):
        return to.copy_(x)
    width, axis = 1, x.ndim
    while axis and (x.stride(axis - 1) == width or x.shape[axis - 1] == 1):  # axes that lie beside each other
        axis, width = axis - 1, width * x.shape[axis - 1]
    if LIBRARY is None or width <= 1:
        return to.copy_(x)
    rows = x.reshape(-1, width)
    LIBRARY.cutaway_copy(rows.data_ptr(), len(rows), width, rows.stride(0), to.data_ptr(), get_num_threads())
    return to


class _AttentionCall(ctypes.Structure):
    """calls.h holds the same struct: change both together."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "keys", "values", "mask", "scores", "pattern", "z")),
        *((name, ctypes.c_int64) for name in ("texts", "groups", "heads", "tokens", "positions", "width", "row")),
        *((name, ctypes.c_int64) for name in ("q_text", "q_token", "key_text", "key_group", "key_position")),
        *((name, ctypes.c_int64) for name in ("value_text", "value_group", "value_position", "mask_text", "causal")),
        ("bias", ctypes.c_void_p),
        ("softcap", ctypes.c_float),
        ("sinks", ctypes.c_void_p),
    )


def scores(q_BTHK: Tensor, k_BSGK: Tensor, causal: bool, visible_BTS: Tensor | None = None) -> Tensor:
    """q · k / √K, and -inf where a token does not attend, [B, H, T, S].

    causal: token t attends to positions up to t. visible: bool [B or 1, T, S], or None.
    """
    b, t, h, _ = q_BTHK.shape
    out = empty((b, h, t, k_BSGK.shape[1]), q_BTHK)
    _attention(SCORES, q_BTHK, k_BSGK, None, causal, visible_BTS, scores=out)
    return out


def softmax(scores_BHTS: Tensor, sinks_H: Tensor | None = None) -> Tensor:
    """Over the last axis; 0 where a score is -inf. sinks: for each head one more score, which is dropped."""
    assert LIBRARY is not None
    x, out, width = scores_BHTS.contiguous(), empty(scores_BHTS.shape, scores_BHTS), scores_BHTS.shape[-1]
    heads, tokens = (1, 1) if sinks_H is None else x.shape[1:3]
    sinks_H = None if sinks_H is None else sinks_H.contiguous()
    LIBRARY.cutaway_softmax(
        x.data_ptr(), x.shape[:-1].numel(), width, None if sinks_H is None else sinks_H.data_ptr(), heads, tokens,
        out.data_ptr(), get_num_threads(),
    )  # fmt: skip
    return out


def mix(pattern_BHTS: Tensor, v_BSGK: Tensor) -> Tensor:
    """Each head's sum of values, weighted by its pattern, [B, T, H, K]."""
    pattern = pattern_BHTS.contiguous()
    b, h, t, _ = pattern.shape
    z_BTHK = v_BSGK.new_empty(b, t, h, v_BSGK.shape[-1])
    _attention(MIX, z_BTHK, None, v_BSGK, False, pattern=pattern, z=z_BTHK)
    return z_BTHK


def attend(q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, causal: bool, visible_BTS: Tensor | None = None) -> Tensor:
    """mix(softmax(scores), v), bit for bit, without ever holding either: z [B, T, H, K]."""
    z_BTHK = q_BTHK.new_empty(q_BTHK.shape)
    _attention(SCORES | SOFTMAX | MIX, q_BTHK, k_BSGK, v_BSGK, causal, visible_BTS, z=z_BTHK)
    return z_BTHK


def attend_recorded(
    q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, causal: bool, visible_BTS: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """`attend` that leaves scores and pattern [B, H, T, S] too: (scores, pattern, z)."""
    b, t, h, _ = q_BTHK.shape
    square = b, h, t, k_BSGK.shape[1]
    scores, pattern, z_BTHK = recorded(square, q_BTHK), recorded(square, q_BTHK), recorded(q_BTHK.shape, q_BTHK)
    _attention(
        SCORES | SOFTMAX | MIX, q_BTHK, k_BSGK, v_BSGK, causal, visible_BTS, scores=scores, pattern=pattern, z=z_BTHK
    )
    return scores, pattern, z_BTHK


def _attention(
    stages: int,
    q_BTHK: Tensor,
    k_BSGK: Tensor | None,
    v_BSGK: Tensor | None,
    causal: bool,
    visible_BTS: Tensor | None = None,
    **outs: Tensor,
) -> None:
    """outs: scores, pattern and z, contiguous, as far as the stages take or give them."""
    assert LIBRARY is not None
    texts, tokens, heads, width = q_BTHK.shape
    q = q_BTHK if q_BTHK.stride(2) == width and q_BTHK.stride(3) == 1 else q_BTHK.contiguous()
    sides = [side if side.stride(-1) == 1 else side.contiguous() for side in (k_BSGK, v_BSGK) if side is not None]
    k, v = sides[0], sides[-1]
    positions, groups = k.shape[1:3]
    squares = [outs[name] for name in ("scores", "pattern") if name in outs]
    fits = all(side.shape == (texts, positions, groups, width) for side in sides) and heads % groups == 0
    if not fits or any(square.shape != (texts, heads, tokens, positions) for square in squares):
        found = ", ".join(str(list(part.shape)) for part in (q, *sides, *squares))
        raise BadArgument(f"attention over {found}", "q, k, v and pattern of one pass", "give a value its own shape")
    mask = None if visible_BTS is None else visible_BTS.contiguous()
    call = _AttentionCall(
        q.data_ptr(), k.data_ptr(), v.data_ptr(), None if mask is None else mask.data_ptr(),
        *(outs[name].data_ptr() if name in outs else None for name in ("scores", "pattern", "z")),
        texts, groups, heads // groups, tokens, positions, width, positions,
        q.stride(0), q.stride(1), k.stride(0), k.stride(2), k.stride(1), v.stride(0), v.stride(2), v.stride(1),
        0 if mask is None or len(mask) == 1 else mask.stride(0), causal,
    )  # fmt: skip
    LIBRARY.cutaway_attention(ctypes.addressof(call), stages, get_num_threads())
