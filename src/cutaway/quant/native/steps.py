"""The small steps of a decoder between two linear layers, natively: float32 on the CPU, any thread count.

Each takes what its namesake in plain.py takes, and is that one without the library, for another dtype, or where
gradients are wanted. It does not know blocks, caches or names of values.
"""

import ctypes

import torch
from torch import Tensor, get_num_threads

from cutaway.quant.native import reference as plain
from cutaway.quant.native.buffers import Room
from cutaway.quant.native.library import LIBRARY

PANEL = 32  # places whose keys the library wants beside each other: as in paths.h


def usable(*tensors: Tensor) -> bool:
    """Whether the library can take these: float32 on the CPU, last elements adjacent, and nobody wants gradients."""
    grad = torch.is_grad_enabled()
    for t in tensors:  # a plain loop: this runs hundreds of times a token
        if t.dtype is not torch.float32 or t.stride(-1) != 1 or not t.is_cpu or (grad and t.requires_grad):
            return False
    return True


def _norms(x: Tensor, *vectors: Tensor) -> bool:
    """Whether the library can take x and a norm's vectors, which are as wide."""
    return usable(x, *vectors) and all(vector.shape == x.shape[-1:] for vector in vectors)


def rms_norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · w over the last axis."""
    if LIBRARY is None or not _norms(x, w):
        return plain.rms_norm(x, w, eps)
    x, out = x.contiguous(), x.new_empty(x.shape)
    width = x.shape[-1]
    LIBRARY.cutaway_norm(
        x.data_ptr(), w.data_ptr(), None, eps, x.numel() // width, width, None, None, out.data_ptr(), get_num_threads()
    )
    return out


def layer_norm(x: Tensor, w: Tensor, b: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) · w + b over the last axis."""
    if LIBRARY is None or not _norms(x, w, b):
        return plain.layer_norm(x, w, b, eps)
    x, out = x.contiguous(), x.new_empty(x.shape)
    width = x.shape[-1]
    LIBRARY.cutaway_norm(
        x.data_ptr(), w.data_ptr(), b.data_ptr(), eps, x.numel() // width, width, None, None, out.data_ptr(),
        get_num_threads(),
    )  # fmt: skip
    return out


def norm_open(x: Tensor, w: Tensor, b: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Either norm (RMSNorm without b) with every step of it → scale [..., 1], x normalized, and the result."""
    if LIBRARY is None or not _norms(x, w, *(() if b is None else (b,))):
        return plain.norm_open(x, w, b, eps)
    x, normalized, out = x.contiguous(), x.new_empty(x.shape), x.new_empty(x.shape)
    *leading, width = x.shape
    scale = x.new_empty(*leading, 1)
    LIBRARY.cutaway_norm(
        x.data_ptr(), w.data_ptr(), None if b is None else b.data_ptr(), eps, x.numel() // width, width,
        scale.data_ptr(), normalized.data_ptr(), out.data_ptr(), get_num_threads(),
    )  # fmt: skip
    return scale, normalized, out


def rotate(x_BTHK: Tensor, turn: tuple[Tensor, Tensor], out: Tensor | None = None) -> Tensor:
    """Turn each pair (first half, second half) by its angle, cos and sin [B or 1, T, 1, pairs]; the rest stays.

    out: where the result is written, contiguous and only where the library is; None: new memory.
    """
    cos, sin = turn
    if LIBRARY is None or not usable(x_BTHK, cos, sin):
        return plain.rotate(x_BTHK, turn)
    b, t, h, k = x_BTHK.shape
    if len(cos) != b:
        cos, sin = cos.expand(b, -1, -1, -1), sin.expand(b, -1, -1, -1)
    cos, sin, x = cos.contiguous(), sin.contiguous(), _evenly(x_BTHK)
    out = x.new_empty(b, t, h, k) if out is None else out
    LIBRARY.cutaway_rotate(
        x.data_ptr(), cos.data_ptr(), sin.data_ptr(), b * t, h, k, cos.shape[-1],
        x.stride(1) if t > 1 else x.stride(0), x.stride(2), out.data_ptr(), get_num_threads(),
    )  # fmt: skip
    return out


def silu_mul(gate_BTF: Tensor, up_BTF: Tensor) -> Tensor:
    """silu(gate) · up."""
    if LIBRARY is None or not usable(gate_BTF, up_BTF):
        return plain.silu_mul(gate_BTF, up_BTF)
    width = gate_BTF.shape[-1]
    gate, up = (x.reshape(-1, width) for x in (gate_BTF, up_BTF))  # a view where the halves of one matrix come
    out = gate_BTF.new_empty(gate_BTF.shape)
    LIBRARY.cutaway_silu_mul(
        gate.data_ptr(),
        up.data_ptr(),
        len(gate),
        width,
        gate.stride(0),
        up.stride(0),
        out.data_ptr(),
        get_num_threads(),
    )
    return out


class _AttendOne(ctypes.Structure):
    """steps.cpp holds the same struct: change both together."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "keys", "values", "mask", "z")),
        *((name, ctypes.c_int64) for name in ("texts", "groups", "heads", "width", "places")),
        *((name, ctypes.c_int64) for name in ("text_stride", "group_stride", "place_stride")),
        *((name, ctypes.c_int64) for name in ("mask_stride", "mask_step")),
    )


def attend_one(q_BHK: Tensor, keys_BGSK: Tensor, values_BGSK: Tensor, mask_BS: Tensor | None = None) -> Tensor:
    """One new token's attention to all places → z [B, H, K].

    keys and values are views [B, G, S, K] of a cache, with equal strides; mask 0/1 of any whole-number dtype, or bool.
    """
    if LIBRARY is None or not usable(q_BHK, keys_BGSK, values_BGSK) or keys_BGSK.stride() != values_BGSK.stride():
        return plain.attend_one(q_BHK, keys_BGSK, values_BGSK, mask_BS)
    q, z = q_BHK.contiguous(), q_BHK.new_empty(q_BHK.shape)
    texts, groups, places, width = keys_BGSK.shape
    mask, mask_stride, mask_step = None, 0, 0
    if mask_BS is not None:  # its elements are 0 or 1: the first byte of each says it all
        mask_BS = mask_BS.expand(texts, places)
        mask, size = mask_BS.data_ptr(), mask_BS.element_size()
        mask_stride, mask_step = mask_BS.stride(0) * size, mask_BS.stride(1) * size
    call = _AttendOne(
        q.data_ptr(), keys_BGSK.data_ptr(), values_BGSK.data_ptr(), mask, z.data_ptr(),
        texts, groups, q.shape[1] // groups, width, places, *keys_BGSK.stride()[:3], mask_stride, mask_step,
    )  # fmt: skip
    LIBRARY.cutaway_attend_one(ctypes.addressof(call), get_num_threads())
    return z


class _AttendOpen(ctypes.Structure):
    """steps.cpp holds the same struct: change both together."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "keys", "values", "mask", "panels", "scores", "pattern", "z")),
        *((name, ctypes.c_int64) for name in ("texts", "groups", "heads", "tokens", "places", "width")),
        *((name, ctypes.c_int64) for name in ("q_text", "q_stride", "key_text", "key_group", "key_stride")),
        *((name, ctypes.c_int64) for name in ("value_text", "value_group", "value_stride")),
        *((name, ctypes.c_int64) for name in ("mask_text", "limit", "later")),
    )


def attend_open(
    q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, causal: bool, mask_BTS: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention with every step of it → scores and pattern [B, H, T, S], z [B, T, H, K].

    causal: token t sees places up to t. mask: bool [B or 1, T, S], True where a token sees a place, at least one each.
    """
    if LIBRARY is None or not usable(q_BTHK, k_BSGK, v_BSGK):
        return plain.attend_open(q_BTHK, k_BSGK, v_BSGK, causal, mask_BTS)
    texts, tokens, heads, _ = q_BTHK.shape
    scores, pattern = (q_BTHK.new_empty(texts, heads, tokens, k_BSGK.shape[1]) for _ in range(2))
    return scores, pattern, attend_many(q_BTHK, k_BSGK, v_BSGK, causal, mask_BTS, (scores, pattern, None))


def attend_many(
    q_BTHK: Tensor,
    k_BSGK: Tensor,
    v_BSGK: Tensor,
    causal: bool,
    mask_BTS: Tensor | None = None,
    outs: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None),
) -> Tensor:
    """z of `attend_open`, bit for bit. causal and mask as there.

    outs: where scores, pattern and z are written, contiguous and only where the library is; None: scores and pattern
    are not kept, z is new.
    """
    if LIBRARY is None or not usable(q_BTHK, k_BSGK, v_BSGK):
        return plain.attend_open(q_BTHK, k_BSGK, v_BSGK, causal, mask_BTS)[-1]
    texts, tokens, heads, width = q_BTHK.shape
    places, groups = k_BSGK.shape[1:3]
    q = q_BTHK if q_BTHK.stride(2) == width else q_BTHK.contiguous()
    panels = q.new_empty(texts, groups, -(-places // PANEL), width, PANEL)
    scores, pattern, z = outs
    z = q.new_empty(texts, tokens, heads, width) if z is None else z
    mask = None if mask_BTS is None else mask_BTS.contiguous()
    inside = [None if value is None else value.data_ptr() for value in (scores, pattern)]
    call = _AttendOpen(
        q.data_ptr(), k_BSGK.data_ptr(), v_BSGK.data_ptr(), None if mask is None else mask.data_ptr(),
        panels.data_ptr(), *inside, z.data_ptr(), texts, groups, heads // groups, tokens, places, width,
        q.stride(0), q.stride(1), k_BSGK.stride(0), k_BSGK.stride(2), k_BSGK.stride(1),
        v_BSGK.stride(0), v_BSGK.stride(2), v_BSGK.stride(1),
        0 if mask is None or len(mask) == 1 else mask.stride(0), 1 if causal else places, int(causal),
    )  # fmt: skip
    LIBRARY.cutaway_attend_open(ctypes.addressof(call), get_num_threads())
    return z


class StepShape(ctypes.Structure):
    """What stays the same from token to token. calls.h holds the same struct: change both together."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("texts", "groups", "heads", "width", "pairs"),
            *("text_stride", "group_stride", "place_stride", "mask_stride", "mask_step"),
        )
    )


def step_shape(keys_BSGK: Tensor, heads: int, pairs: int) -> StepShape:
    """The shape of a step over a cache [B, capacity, G, K] by `heads` heads in all, of which `pairs` pairs turn."""
    texts, capacity, groups, width = keys_BSGK.shape
    strides = keys_BSGK.stride()
    return StepShape(texts, groups, heads // groups, width, pairs, strides[0], strides[2], strides[1], capacity, 1)


def attention_step(
    shape: StepShape,
    qkv_B1X: Tensor,
    turn: tuple[Tensor, Tensor] | None,
    keys_BSGK: Tensor,
    values_BSGK: Tensor,
    places: int,
    mask_BS: Tensor | None = None,
    room: Room | None = None,
) -> Tensor:
    """Attention between its two products for one new token → z [B, 1, H, K].

    q and k turn, k and v are written to place `places - 1` of the cache [B, capacity, G, K], and q looks at all
    `places`. qkv: q, k, v of all heads behind each other. mask: bool [B, places] or None. room: for q, k, v, the
    turned q and k, and z. Only where the library is, for float32 on the CPU; nothing is checked.
    """
    assert LIBRARY is not None
    z = qkv_B1X.new_empty(shape.texts, 1, shape.groups * shape.heads, shape.width)
    cos, sin = turn or (qkv_B1X, qkv_B1X)  # with no pair to turn they are not read
    mask = mask_of(shape, mask_BS)
    LIBRARY.cutaway_attention_step(
        ctypes.addressof(shape), qkv_B1X.data_ptr(), cos.data_ptr(), sin.data_ptr(),
        keys_BSGK.data_ptr(), values_BSGK.data_ptr(), mask, places,
        None if room is None else room.address, z.data_ptr(), get_num_threads(),
    )  # fmt: skip
    return z


def mask_of(shape: StepShape, mask_BS: Tensor | None) -> int | None:
    """Where a mask lies, and in the shape how."""
    if mask_BS is None:
        return None
    shape.mask_stride, shape.mask_step = mask_BS.stride(0), mask_BS.stride(1)
    return mask_BS.data_ptr()


def _evenly(x_BTHK: Tensor) -> Tensor:
    """A tensor whose rows b, t follow each other at one distance: itself where they do."""
    b, t = x_BTHK.shape[:2]
    if b == 1 or t == 1 or x_BTHK.stride(0) == t * x_BTHK.stride(1):
        return x_BTHK
    return x_BTHK.contiguous()
