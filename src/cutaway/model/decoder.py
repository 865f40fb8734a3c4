"""The decoder: the whole forward pass from ids to logits, in the order in which the data meets it.

B texts, T positions, S positions attended to, D model width, H heads, G key/value heads, K head width, F MLP width,
V vocabulary, E embedding width. Every value with a name passes `tap(name, value)` where it is born. This file knows no
tokenizer, no checkpoint, no model family and no quantization: facts come in a DecoderConfig, and a backend may replace
a Linear, the `ops` and `run_blocks` by others of the same call and meaning.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cutaway.ground.config import DecoderConfig
from cutaway.ground.shapes import TokenBatch
from cutaway.model.attention_mask import PassInfo, attention_mask
from cutaway.model.cache import Cache
from cutaway.model.ops import Ops, torch_ops
from cutaway.model.positions import Rotary
from cutaway.model.tap import Tap, untapped


class Embed(nn.Module):
    """ids → vectors: a row of the embedding table for each, and of the position table where positions are learned."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.offset = config.position_offset
        self.token = nn.Embedding(config.vocab_size, config.d_embed)
        self.project_in = nn.Linear(config.d_embed, config.d_model, bias=False) if config.projected else None
        rows = config.n_positions + config.position_offset
        self.position = nn.Embedding(rows, config.d_model) if config.rope is None else None

    def forward(self, tokens: TokenBatch, tap: Tap) -> Float[Tensor, "B T D"]:
        resid_BTD = tap("embed.token", self.token(tokens.ids))
        if self.project_in is not None:
            resid_BTD = tap("embed.projected", self.project_in(resid_BTD))
        if self.position is None:
            return resid_BTD
        rows_BT = (tokens.positions + self.offset).clamp(min=0)  # padding has position -1
        return resid_BTD + tap("embed.position", self.position(rows_BT))


class Norm(nn.Module):
    """LayerNorm (centered, with a bias) or RMSNorm, with a learned gain."""

    ops: Ops = torch_ops

    def __init__(self, config: DecoderConfig, site: str) -> None:
        super().__init__()
        self.site, self.eps, self.centered = site, config.norm_eps, config.norm == "layer"
        self.weight = nn.Parameter(torch.empty(config.d_model))
        self.bias = nn.Parameter(torch.empty(config.d_model)) if config.norm_bias else None

    def forward(self, x_BTD: Float[Tensor, "B T D"], tap: Tap) -> Float[Tensor, "B T D"]:
        scale, normalized = self.site + ".scale", self.site + ".normalized"
        out_BTD = None
        if not tap.wants(scale, normalized):  # the same in one pass over memory, where the ops have it
            out_BTD = self.ops.norm(x_BTD, self.weight, self.bias, self.eps, self.centered)
        if out_BTD is None:
            wide_BTD = x_BTD.to(torch.promote_types(x_BTD.dtype, torch.float32))
            wide_BTD = wide_BTD - self.ops.mean(wide_BTD) if self.centered else wide_BTD
            scale_BT1 = tap(scale, self.ops.root_mean_square(wide_BTD, self.eps))
            normalized_BTD = tap(normalized, (wide_BTD * scale_BT1.reciprocal()).to(x_BTD.dtype))
            out_BTD = normalized_BTD * self.weight
            out_BTD = out_BTD if self.bias is None else out_BTD + self.bias
        return tap(self.site + ".out", out_BTD)


class Attention(nn.Module):
    """Attention: each head reads earlier positions and returns a weighted sum of their values."""

    ops: Ops = torch_ops

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.site, self.d_head = layer, f"blocks.{layer}.attn.", config.d_head
        self.heads = (config.n_heads, config.n_kv_heads, config.n_kv_heads)
        # The rows of query, key and value stand in one matrix: one product instead of three.
        self.qkv = nn.Linear(config.d_model, sum(self.heads) * config.d_head, bias=config.qkv_bias)
        self.out = nn.Linear(config.n_heads * config.d_head, config.d_model, bias=config.out_bias)

    def forward(
        self, x_BTD: Float[Tensor, "B T D"], info: PassInfo, cache: Cache | None, tap: Tap
    ) -> Float[Tensor, "B T D"]:
        site = self.site
        q_BTHK, k_BTGK, v_BTGK = self.qkv(x_BTD).unflatten(-1, (-1, self.d_head)).split(self.heads, 2)
        q_BTHK, k_BTGK, v_BTGK = tap(site + "q", q_BTHK), tap(site + "k", k_BTGK), tap(site + "v", v_BTGK)
        if info.rotary is not None:
            q_BTHK = tap(site + "rot_q", self.ops.rotate(q_BTHK, info.rotary))
            k_BTGK = tap(site + "rot_k", self.ops.rotate(k_BTGK, info.rotary))
        k_BSGK, v_BSGK = (k_BTGK, v_BTGK) if cache is None else cache.extend(self.layer, k_BTGK, v_BTGK)
        names = site + "scores", site + "pattern"
        if not tap.wants(*names):  # the same, without ever holding either
            z_BTHK = self.ops.attend(q_BTHK, k_BSGK, v_BSGK, info.mask)
        elif not tap.changes(*names):  # the same in one pass over memory
            *recorded, z_BTHK = self.ops.attend_recorded(q_BTHK, k_BSGK, v_BSGK, info.mask)
            list(map(tap, names, recorded))
        else:
            scores_BHTS = tap(names[0], self.ops.scores(q_BTHK, k_BSGK, info.mask))
            pattern_BHTS = tap(names[1], self.ops.softmax(scores_BHTS))
            z_BTHK = self.ops.mix(pattern_BHTS, v_BSGK)
        return self.out(tap(site + "z", z_BTHK).flatten(-2))


class MLP(nn.Module):
    """The MLP: up, a nonlinearity (gated or not), and down; each position by itself."""

    ops: Ops = torch_ops

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.site, self.gated, self.activation = f"blocks.{layer}.mlp.", config.gated, config.activation
        # Where gated, the gate's rows stand before the other branch's in one matrix.
        self.up = nn.Linear(config.d_model, config.d_mlp * (2 if config.gated else 1), bias=config.mlp_bias)
        self.down = nn.Linear(config.d_mlp, config.d_model, bias=config.mlp_bias)

    def forward(self, x_BTD: Float[Tensor, "B T D"], tap: Tap) -> Float[Tensor, "B T D"]:
        ops, act, site, post_BTF = self.ops, self.activation, self.site, None
        if not tap.wants(site + "pre", site + "pre_linear"):  # the same within one product, where the ops have it
            post_BTF = ops.up(self.up, act, self.gated, x_BTD)
        if post_BTF is None and self.gated:
            gate_BTF, linear_BTF = self.up(x_BTD).chunk(2, -1)
            post_BTF = ops.gate(act, tap(site + "pre", gate_BTF), tap(site + "pre_linear", linear_BTF))
        elif post_BTF is None:
            post_BTF = ops.activation[act](tap(site + "pre", self.up(x_BTD)))
        return self.down(tap(site + "post", post_BTF))


class Block(nn.Module):
    """One layer: attention adds to the residual stream, then the MLP does; a norm before each, or after (post-norm)."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.site, self.post_norm = f"blocks.{layer}.", config.post_norm
        self.ln1, self.attn = Norm(config, self.site + "ln1"), Attention(config, layer)
        self.ln2, self.mlp = Norm(config, self.site + "ln2"), MLP(config, layer)

    def forward(
        self, resid_BTD: Float[Tensor, "B T D"], info: PassInfo, cache: Cache | None, tap: Tap
    ) -> Float[Tensor, "B T D"]:
        site, post_norm = self.site, self.post_norm
        pre_BTD = tap(site + "resid_pre", resid_BTD)
        read_BTD = pre_BTD if post_norm else self.ln1(pre_BTD, tap)
        mid_BTD = tap(site + "resid_mid", pre_BTD + tap(site + "attn_out", self.attn(read_BTD, info, cache, tap)))
        mid_BTD = self.ln1(mid_BTD, tap) if post_norm else mid_BTD
        read_BTD = mid_BTD if post_norm else self.ln2(mid_BTD, tap)
        post_BTD = tap(site + "resid_post", mid_BTD + tap(site + "mlp_out", self.mlp(read_BTD, tap)))
        return self.ln2(post_BTD, tap) if post_norm else post_BTD


def run_blocks(
    blocks: Iterable[nn.Module], resid_BTD: Tensor, info: PassInfo, cache: Cache | None, tap: Tap
) -> Float[Tensor, "B T D"]:
    """Every block in turn. A backend may replace this function (Decoder.run_blocks): it gives the same bits, and calls
    a block itself wherever a tap changes a value inside it or a hook waits for it."""
    for block in blocks:
        resid_BTD = block(resid_BTD, info, cache, tap)
    return resid_BTD


class Unembed(nn.Module):
    """Vectors → logits: the final norm, then the dot product with each token's unembedding vector."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.ln_final = Norm(config, "ln_final") if config.final_norm else None
        self.project_out = nn.Linear(config.d_model, config.d_embed, bias=False) if config.projected else None
        self.head = nn.Linear(config.d_embed, config.vocab_size, bias=False)

    def forward(self, resid_BTD: Float[Tensor, "B T D"], tap: Tap) -> Float[Tensor, "B T V"]:
        if self.ln_final is not None:
            resid_BTD = self.ln_final(resid_BTD, tap)
        if self.project_out is not None:
            resid_BTD = self.project_out(resid_BTD)
        return tap("logits", self.head(resid_BTD))


class Decoder(nn.Module):
    """The whole model. Weights arrive empty: weights/load.py fills them.

    forward(tokens, cache, tap, last) → logits [B, T, V] of the tokens given, those in the cache read but not repeated.
    `last` [B] chooses one position a text to unembed, and the logits are then [B, 1, V]: a vocabulary is wide.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config, self.run_blocks = config, run_blocks
        self.embed = Embed(config)
        self.rotary = Rotary(config.rope) if config.rope is not None else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.unembed = Unembed(config)

    def forward(
        self,
        tokens: TokenBatch,
        cache: Cache | None = None,
        tap: Tap = untapped,
        last: Int[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        if cache is not None:
            cache.admit(tokens)
        resid_BTD = self.embed(tokens, tap)
        cos_sin = None if self.rotary is None else self.rotary(tokens.positions, resid_BTD.dtype)
        info = PassInfo(attention_mask(tokens, cache), cos_sin)
        resid_BTD = self.run_blocks(self.blocks, resid_BTD, info, cache, tap)
        if last is not None:
            resid_BTD = resid_BTD[torch.arange(len(last), device=last.device), last][:, None]
        return self.unembed(resid_BTD, tap)
