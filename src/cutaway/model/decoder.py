"""The decoder: the whole forward pass from ids to logits, in the order in which the data meets it.

B texts, T positions, S positions attended to, D model width, H heads, G key/value heads, K head width, F MLP width,
V vocabulary, E embedding width. Every value with a name passes `tap(name, value)`. This file knows no tokenizer,
no checkpoint, no model family and no quantization: facts come in a DecoderConfig, and whoever loads the weights may
put another layer of the same call in the place of a Linear.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cutaway.ground.config import DecoderConfig
from cutaway.ground.shapes import TokenBatch
from cutaway.model.attend import Place, attend_explicit, window
from cutaway.model.cache import Cache
from cutaway.model.counted import Counted
from cutaway.model.positions import Rotary
from cutaway.model.steps import ACTIVATIONS, Normalizing, Steps, plain
from cutaway.model.tap import Tap, show, unseen, untapped


def child(name: str) -> Any:
    """A module's own module of that name, at once. nn.Module looks for one only where all else has failed, which takes
    0.7 µs, hundreds of times a token."""

    def own(module: nn.Module) -> Any:
        try:
            return module._modules[name]
        except KeyError:
            raise AttributeError(name) from None  # nn.Module says the rest

    return property(own)


class Embed(nn.Module):
    """ids → vectors: a row of the embedding table for each id, and where positions are learned, one for each place."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.offset = config.position_offset
        self.token = nn.Embedding(config.vocab_size, config.d_embed)
        self.project_in = nn.Linear(config.d_embed, config.d_model, bias=False) if config.projected else None
        rows = config.n_positions + config.position_offset
        self.position = nn.Embedding(rows, config.d_model) if config.rope is None else None

    def forward(self, tokens: TokenBatch, tap: Tap) -> Float[Tensor, "B T D"]:
        resid = tap("embed.token", self.token(tokens.ids))
        if self.project_in is not None:
            resid = tap("embed.projected", self.project_in(resid))
        if self.position is None:
            return resid
        rows_BT = (tokens.positions + self.offset).clamp(min=0)  # padding has position -1
        return resid + tap("embed.position", self.position(rows_BT))


def norm_sites(site: str) -> tuple[str, str, str]:
    """What a norm shows."""
    return site + ".scale", site + ".normalized", site + ".out"


class Norm(Normalizing):
    """Each vector brought to unit size, then a learned gain: LayerNorm (centered, with a bias) or RMSNorm."""

    steps: Steps = plain

    def __init__(self, config: DecoderConfig, site: str) -> None:
        super().__init__()
        self.site, self.eps, self.centered = site, config.norm_eps, config.norm == "layer"
        self.inside = norm_sites(site)[:2]
        self.weight = nn.Parameter(torch.empty(config.d_model))
        self.bias = nn.Parameter(torch.empty(config.d_model)) if config.norm_bias else None

    def forward(self, x_BTD: Float[Tensor, "B T D"], tap: Tap) -> Float[Tensor, "B T D"]:
        if not tap.wants(*self.inside):
            return tap(self.site + ".out", self.steps.norm(x_BTD, self.weight, self.bias, self.eps))
        opened = None
        if not tap.changes(*self.inside):
            opened = self.steps.norm_open(x_BTD, self.weight, self.bias, self.eps)
        if opened is None:
            return tap(self.site + ".out", self.explicit(x_BTD, tap))
        show(tap, self.inside, opened[:-1])
        return tap(self.site + ".out", opened[-1])

    def explicit(self, x_BTD: Tensor, tap: Tap) -> Tensor:
        """The same in named steps, in float32 or better."""
        wide_BTD = x_BTD.to(torch.promote_types(x_BTD.dtype, torch.float32))
        if self.centered:
            wide_BTD = wide_BTD - wide_BTD.mean(-1, keepdim=True)
        scale_BT1 = tap(self.site + ".scale", (wide_BTD.square().mean(-1, keepdim=True) + self.eps).sqrt())
        normalized_BTD = tap(self.site + ".normalized", (wide_BTD / scale_BT1).to(x_BTD.dtype))
        out_BTD = normalized_BTD * self.weight
        return out_BTD if self.bias is None else out_BTD + self.bias


class Attention(Counted):
    """Vectors, mixed across positions: each head looks at earlier places and brings back what it finds."""

    steps: Steps = plain
    qkv, out = child("qkv"), child("out")

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.site, self.d_head = layer, f"blocks.{layer}.attn.", config.d_head
        self.reads = (*norm_sites(f"blocks.{layer}.ln1"), "", "", "")
        self.softmax = (self.site + "scores", self.site + "pattern")
        self.inside = (*(self.site + name for name in ("q", "k", "v", "rot_q", "rot_k", "z")), *self.softmax)
        self.heads = (config.n_heads, config.n_kv_heads, config.n_kv_heads)
        width = config.n_heads * config.d_head
        # The rows of query, key and value stand in one matrix: one product instead of three.
        self.qkv = nn.Linear(config.d_model, sum(self.heads) * config.d_head, bias=config.qkv_bias)
        self.out = nn.Linear(width, config.d_model, bias=config.out_bias)

    def forward(
        self, x_BTD: Float[Tensor, "B T D"], norm: Norm | None, place: Place, cache: Cache | None, tap: Tap
    ) -> Float[Tensor, "B T H K"]:
        """What each head brings back, z; `out` adds it up. norm: what x passes first."""
        t, step = x_BTD.shape[1], self.steps
        qkv_BTX = unseen(lambda room: step.product(self.qkv, x_BTD, norm, room=room), self.reads, t, tap)
        if qkv_BTX is None:
            qkv_BTX = self.qkv(x_BTD if norm is None else norm(x_BTD, tap))
        z_BTHK = unseen(
            lambda room: step.attention(qkv_BTX, self.heads, place, cache, self.layer, room), self.inside, t, tap
        )
        return self.explicit(qkv_BTX, place, cache, tap) if z_BTHK is None else z_BTHK

    def explicit(self, qkv_BTX: Tensor, place: Place, cache: Cache | None, tap: Tap) -> Tensor:
        """All between the two products, in named steps."""
        site = self.site
        q_BTHK, k_BTGK, v_BTGK = qkv_BTX.unflatten(-1, (-1, self.d_head)).split(self.heads, 2)
        q_BTHK, k_BTGK, v_BTGK = tap(site + "q", q_BTHK), tap(site + "k", k_BTGK), tap(site + "v", v_BTGK)
        if place.turn is not None:
            q_BTHK = tap(site + "rot_q", self.steps.rotate(q_BTHK, place.turn))
            k_BTGK = tap(site + "rot_k", self.steps.rotate(k_BTGK, place.turn))
        k_BSGK, v_BSGK = (k_BTGK, v_BTGK) if cache is None else cache.extend(self.layer, k_BTGK, v_BTGK)
        return tap(site + "z", self.mixed(q_BTHK, k_BSGK, v_BSGK, place, tap))

    def mixed(self, q_BTHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, place: Place, tap: Tap) -> Tensor:
        """Values mixed by the softmax of scores, which are shown where somebody asks."""
        if not tap.wants(*self.softmax):
            return self.steps.attend(q_BTHK, k_BSGK, v_BSGK, place.window)
        opened = None
        if not tap.changes(*self.softmax):
            opened = self.steps.attend_open(q_BTHK, k_BSGK, v_BSGK, place.window)
        if opened is None:
            return attend_explicit(q_BTHK, k_BSGK, v_BSGK, place.window, self.site, tap)
        show(tap, self.softmax, opened[:-1])
        return opened[-1]


class MLP(Counted):
    """Each vector changed by itself: wide, through a nonlinearity, and back."""

    steps: Steps = plain
    up, down = child("up"), child("down")

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.site, self.gated = f"blocks.{layer}.mlp.", config.gated
        wide = (self.site + "pre", self.site + "pre_linear", self.site + "post")
        self.activation, self.inside = config.activation, (*norm_sites(f"blocks.{layer}.ln2"), *wide)
        # Where gated, the gate's rows stand before the other branch's in one matrix.
        rows = config.d_mlp * (2 if config.gated else 1)
        self.up = nn.Linear(config.d_model, rows, bias=config.mlp_bias)
        self.down = nn.Linear(config.d_mlp, config.d_model, bias=config.mlp_bias)

    def forward(self, x_BTD: Float[Tensor, "B T D"], norm: Norm | None, tap: Tap) -> Float[Tensor, "B T F"]:
        """The wide half, post; `down` brings it back. norm: what x passes first."""
        step, act, gated = self.steps, self.activation, self.gated
        post_BTF = unseen(
            lambda room: step.product(self.up, x_BTD, norm, act, gated, room), self.inside, x_BTD.shape[1], tap
        )
        return self.explicit(x_BTD if norm is None else norm(x_BTD, tap), tap) if post_BTF is None else post_BTF

    def explicit(self, x_BTD: Tensor, tap: Tap) -> Tensor:
        """The same of what it reads, in named steps."""
        if not self.gated:
            post_BTF = ACTIVATIONS[self.activation](tap(self.site + "pre", self.up(x_BTD)))
        else:
            gate_BTF, linear_BTF = self.up(x_BTD).chunk(2, -1)
            gate_BTF, linear_BTF = tap(self.site + "pre", gate_BTF), tap(self.site + "pre_linear", linear_BTF)
            post_BTF = self.steps.gate(gate_BTF, linear_BTF, self.activation)
        return tap(self.site + "post", post_BTF)


class Block(Counted):
    """One layer: attention adds to the residual stream, then the MLP does. The norm stands before each, or after."""

    steps: Steps = plain
    ln1, attn, ln2, mlp = child("ln1"), child("attn"), child("ln2"), child("mlp")

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.site, self.post_norm = f"blocks.{layer}.", config.post_norm
        self.attn_sums, self.mlp_sums = (
            ("", "", "", self.site + product, "", self.site + total)
            for product, total in (("attn_out", "resid_mid"), ("mlp_out", "resid_post"))
        )
        self.ln1 = Norm(config, self.site + "ln1")
        self.attn = Attention(config, layer)
        self.ln2 = Norm(config, self.site + "ln2")
        self.mlp = MLP(config, layer)
        attention = (*self.attn.reads, *self.attn.inside, *self.attn_sums)
        self.enters = self.site + "resid_pre"
        self.inside = (self.enters, *attention, *self.mlp.inside, *self.mlp_sums)

    def forward(
        self, resid_BTD: Float[Tensor, "B T D"], place: Place, cache: Cache | None, tap: Tap
    ) -> Float[Tensor, "B T D"]:
        whole_BTD = through(self.steps, (self,), resid_BTD, place, cache, self.inside, tap)
        if whole_BTD is not None:
            return whole_BTD
        resid_BTD = tap(self.enters, resid_BTD)
        ln1, ln2 = (None, None) if self.post_norm else (self.ln1, self.ln2)
        z_BTHK = self.attn(resid_BTD, ln1, place, cache, tap)
        mid_BTD = self.added(resid_BTD, self.attn.out, z_BTHK.flatten(-2), self.attn_sums, tap)
        if self.post_norm:
            mid_BTD = self.ln1(mid_BTD, tap)
        post_BTF = self.mlp(mid_BTD, ln2, tap)
        post_BTD = self.added(mid_BTD, self.mlp.down, post_BTF, self.mlp_sums, tap)
        return self.ln2(post_BTD, tap) if self.post_norm else post_BTD

    def added(self, resid_BTD: Tensor, layer: nn.Module, x_BTX: Tensor, sites: tuple[str, ...], tap: Tap) -> Tensor:
        """The stream with what a layer makes of x added to it."""
        step = self.steps
        sum_BTD = unseen(lambda room: step.add(resid_BTD, layer, x_BTX, room), sites, x_BTX.shape[1], tap)
        return tap(sites[5], resid_BTD + tap(sites[3], layer(x_BTX))) if sum_BTD is None else sum_BTD


def through(
    steps: Steps,
    blocks: tuple[nn.Module, ...],
    resid_BTD: Tensor,
    place: Place,
    cache: Cache | None,
    inside: tuple[str, ...],
    tap: Tap,
) -> Tensor | None:
    """What blocks make of one new place of each text, where there is one step for all that nobody must see into."""
    if resid_BTD.shape[1] > 1:
        return None
    return unseen(lambda room: steps.through(blocks, resid_BTD, place, cache, room), inside, 1, tap)


class Unembed(nn.Module):
    """Vectors → logits: the last norm, and the likeness of what is left to every token's row."""

    steps: Steps = plain

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.inside = (*norm_sites("ln_final"), "", "", "logits")
        self.ln_final = Norm(config, "ln_final") if config.final_norm else None
        self.project_out = nn.Linear(config.d_model, config.d_embed, bias=False) if config.projected else None
        self.head = nn.Linear(config.d_embed, config.vocab_size, bias=False)

    def forward(self, resid_BTD: Float[Tensor, "B T D"], tap: Tap) -> Float[Tensor, "B T V"]:
        norm, step = self.ln_final, self.steps
        if self.project_out is not None:
            resid_BTD, norm = self.project_out(resid_BTD if norm is None else norm(resid_BTD, tap)), None
        logits_BTV = unseen(
            lambda room: step.product(self.head, resid_BTD, norm, room=room), self.inside, resid_BTD.shape[1], tap
        )
        if logits_BTV is None:
            return tap("logits", self.head(resid_BTD if norm is None else norm(resid_BTD, tap)))
        return logits_BTV


class Decoder(nn.Module):
    """The whole model. Weights arrive empty: weights/load.py fills them.

    forward(tokens, cache, tap, last) → logits [B, T, V] of the tokens given, those in the cache read but not repeated.
    `last` [B] chooses one place a text to unembed, and the logits are then [B, 1, V]: a vocabulary is wide.
    """

    steps: Steps = plain

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embed(config)
        self.rotary = Rotary(config.rope) if config.rope is not None else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.known: tuple[tuple[nn.Module, ...], tuple[str, ...]] = (), ()  # what stack() last said
        self.unembed = Unembed(config)

    def use(self, steps: Steps) -> None:
        """Take the small steps this way from now on."""
        for module in self.modules():
            if isinstance(module, Norm | Attention | MLP | Block | Unembed | Decoder):
                module.steps = steps

    def stack(self) -> tuple[tuple[nn.Module, ...], tuple[str, ...]]:
        """The blocks as they are now, and what is inside all of them: the same tuple as long as they are the same."""
        blocks = tuple(self.blocks)
        if blocks != self.known[0]:
            self.known = blocks, tuple(name for block in blocks for name in getattr(block, "inside", ()))
        return self.known

    def forward(
        self,
        tokens: TokenBatch,
        cache: Cache | None = None,
        tap: Tap = untapped,
        last: Int[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        return self.steps.whole(lambda: self.run(tokens, cache, tap, last), tokens.ids.shape[1])

    def run(
        self, tokens: TokenBatch, cache: Cache | None, tap: Tap, last: Int[Tensor, "B"] | None
    ) -> Float[Tensor, "B T V"]:
        """The pass itself: forward's arguments and result."""
        if cache is not None:
            cache.admit(tokens)
        resid_BTD = self.embed(tokens, tap)
        turn = None if self.rotary is None else self.rotary(tokens.positions, resid_BTD.dtype)
        place = Place(window(tokens, cache), turn)
        blocks, inside = self.stack()
        whole_BTD = through(self.steps, blocks, resid_BTD, place, cache, inside, tap)
        if whole_BTD is not None:
            resid_BTD = whole_BTD
        else:
            for block in blocks:
                resid_BTD = block(resid_BTD, place, cache, tap)
        if last is not None:
            resid_BTD = resid_BTD[torch.arange(len(last), device=last.device), last][:, None]
        return self.unembed(resid_BTD, tap)
