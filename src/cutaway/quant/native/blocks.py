"""Blocks as the native library wants them, for one new token per sequence, and the one call that runs several.

It does not know modules, nor what asked for a value; the caller checks what it passes.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, get_num_threads

from cutaway.quant.native.buffers import OutputBuffers
from cutaway.quant.native.layer import NativeLayer
from cutaway.quant.native.library import LIBRARY
from cutaway.quant.native.ops import ACTIVATIONS, NormParts, NormStruct, norm_struct

# The values of a block, in the order of blocks.cpp: Site.
SITES = (
    "resid_pre", "ln1.scale", "ln1.normalized", "ln1.out", "attn.q", "attn.k", "attn.v",
    "attn.q_norm.scale", "attn.q_norm.normalized", "attn.q_norm.out",
    "attn.k_norm.scale", "attn.k_norm.normalized", "attn.k_norm.out", "attn.rot_q", "attn.rot_k",
    "attn.scores", "attn.pattern", "attn.z",
    "attn.out", "ln1_post.scale", "ln1_post.normalized", "attn_out", "resid_mid",
    "ln2.scale", "ln2.normalized", "ln2.out", "mlp.router_logits", "mlp.router_scores",
    "mlp.pre", "mlp.pre_linear", "mlp.post",
    "mlp.out", "ln2_post.scale", "ln2_post.normalized", "mlp_out", "resid_post",
)  # fmt: skip
HEAD_NORMS = {None: 0, "head": 1, "heads": 2, "all": 3}


class _Mixture(ctypes.Structure):
    """blocks.cpp holds the same struct: change both together."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("router", "bias", "layers")),
        *((name, ctypes.c_int64) for name in ("count", "chosen", "normalized")),
    )


class _Block(ctypes.Structure):
    """blocks.cpp holds the same struct: change both together."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("qkv", "out", "up", "down", "mixture")),
        *((name, NormStruct) for name in ("ln1", "ln2", "ln1_post", "ln2_post", "q_norm", "k_norm")),
        *((name, ctypes.c_void_p) for name in ("sinks", "keys", "values")),
        *((name, ctypes.c_float) for name in ("clip", "softcap", "q_scale", "resid_scale", "limit", "alpha")),
        *((name, ctypes.c_int32) for name in ("head_norm", "activation")),
        *((name, ctypes.c_int32) for name in ("gated", "interleaved", "post_norm", "parallel")),
    )


class _Pass(ctypes.Structure):
    """blocks.cpp holds the same struct: change both together."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("texts", "groups", "heads", "width", "pairs", "capacity", "positions")),
        *((name, ctypes.c_void_p) for name in ("cos", "sin", "mask", "bias", "starts", "steps")),
        *((name, ctypes.c_int64) for name in ("index", "row")),
    )


@dataclass(frozen=True)
class MixtureParts:
    """A router's weight [X, D] and bias [X], contiguous, and facts of model/moe.py."""

    weight: Tensor
    bias: Tensor | None
    chosen: int
    normalized: bool


@dataclass(frozen=True)
class BlockParts:
    """One block: its layers (qkv, out, up, down; of a mixture up and down of each expert), its norms (ln1, ln2,
    ln1_post, ln2_post, q_norm, k_norm), its keys and values in the cache [B, capacity, G, K], and facts of
    model/decoder.py."""

    layers: Sequence[NativeLayer]
    norms: Sequence[NormParts | None]
    n_heads: int  # of queries
    keys: Tensor
    values: Tensor
    activation: str
    gated: bool
    clip: float | None = None
    softcap: float | None = None
    q_scale: float = 1.0
    resid_scale: float = 1.0
    head_norm: str | None = None
    interleaved: bool = False
    post_norm: bool = False
    parallel: bool = False
    sinks: Tensor | None = None  # [H]
    limit: float | None = None  # of a gated MLP, with alpha
    alpha: float = 1.0
    mixture: MixtureParts | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Blocks that run together are alike in it."""
        return (self.n_heads, *self.keys.shape)

    def mixture_struct(self) -> _Mixture | None:
        if self.mixture is None:
            return None
        own, experts = self.mixture, [layer.address for layer in self.layers[2:]]
        array = (ctypes.c_void_p * len(experts))(*experts)
        pointers = own.weight.data_ptr(), _address(own.bias), ctypes.addressof(array)
        struct = _Mixture(*pointers, len(own.weight), own.chosen, own.normalized)
        struct.array = array  # kept alive: the field holds its address alone
        return struct

    def struct(self, mixture: _Mixture | None) -> _Block:
        return _Block(
            *(layer.address for layer in self.layers[:4]), None if mixture is None else ctypes.addressof(mixture),
            *map(norm_struct, self.norms), _address(self.sinks), self.keys.data_ptr(), self.values.data_ptr(),
            self.clip or 0, self.softcap or 0, self.q_scale, self.resid_scale, self.limit or 0, self.alpha,
            HEAD_NORMS[self.head_norm], ACTIVATIONS[self.activation],
            self.gated, self.interleaved, self.post_norm, self.parallel,
        )  # fmt: skip


def _address(part: Tensor | None) -> int | None:
    return None if part is None else part.data_ptr()


class NativeBlocks:
    """Blocks of one shape, one after another over one cache."""

    def __init__(self, blocks: Sequence[BlockParts]) -> None:
        assert LIBRARY is not None
        self.parts, self.run = blocks, LIBRARY.cutaway_blocks  # parts: kept alive, since only addresses are passed
        self.mixtures = [block.mixture_struct() for block in blocks]
        self.structs = [block.struct(mixture) for block, mixture in zip(blocks, self.mixtures, strict=True)]
        self.addresses = (ctypes.c_void_p * len(blocks))(*map(ctypes.addressof, self.structs))
        texts, capacity, groups, width = blocks[0].keys.shape
        self.fixed = _Pass(texts, groups, blocks[0].n_heads // groups, width, 0, capacity)
        self.pass_address = ctypes.addressof(self.fixed)

    def __call__(
        self,
        x_B1D: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        positions: int,
        visible_B1S: Tensor | None,
        bias_BH1S: Tensor | None = None,
        buffers: OutputBuffers | None = None,
        first: int = 0,
        count: int | None = None,
    ) -> Tensor:
        """The stream after `count` blocks from `first` on; keys and values are written to index `positions - 1`.

        visible: bool [B, 1, positions], or None. bias: added to the scores, [B, H, 1, positions], or None. buffers: for
        SITES of each of these blocks in turn. Float32 on the CPU, contiguous; nothing is checked.
        """
        call, out = self.fixed, x_B1D.new_empty(x_B1D.shape)
        call.positions, call.row = positions, positions
        call.pairs = 0 if rotary is None else rotary[0].shape[-1]
        call.cos, call.sin = (None, None) if rotary is None else (rotary[0].data_ptr(), rotary[1].data_ptr())
        call.mask = None if visible_B1S is None else visible_B1S.data_ptr()
        call.bias = None if bias_BH1S is None else bias_BH1S.data_ptr()
        call.starts = None
        if buffers is not None:
            call.starts, call.steps = ctypes.addressof(buffers.starts), ctypes.addressof(buffers.steps)
            call.index, call.row = buffers.index, max(buffers.width, positions)
        count = len(self.parts) - first if count is None else count
        self.run(
            ctypes.addressof(self.addresses) + first * ctypes.sizeof(ctypes.c_void_p), count, self.pass_address,
            x_B1D.data_ptr(), out.data_ptr(), get_num_threads(),
        )  # fmt: skip
        return out
