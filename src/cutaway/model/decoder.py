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
from cutaway.model.cache import Cache
from cutaway.model.moe import MoE
from cutaway.model.ops import Ops, torch_ops, wide
from cutaway.model.pass_info import PassInfo, pass_info
from cutaway.model.positions import Rotary
from cutaway.model.sinks import Sinks
from cutaway.model.tap import Tap, each_tapped, untapped


class Embed(nn.Module):
    """ids → vectors: a row of the embedding table for each, and of the position table where positions are learned."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.offset, self.scale = config.position_offset, config.embed_scale
        self.token = nn.Embedding(config.vocab_size, config.d_embed)
        self.project_in = nn.Linear(config.d_embed, config.d_model, bias=False) if config.projected else None
        self.ln = Norm(config, "embed_ln") if config.embed_norm else None
        rows = config.n_positions + config.position_offset
        self.position = nn.Embedding(rows, config.d_model) if config.learned_positions else None

    def forward(self, tokens: TokenBatch, tap: Tap) -> Float[Tensor, "B T D"]:
        resid_BTD = self.token(tokens.ids)
        resid_BTD = tap("embed.token", resid_BTD if self.scale == 1 else resid_BTD * self.scale)
        if self.project_in is not None:
            resid_BTD = tap("embed.projected", self.project_in(resid_BTD))
        resid_BTD = normed(self.ln, resid_BTD, tap)
        if self.position is None:
            return resid_BTD
        rows_BT = (tokens.positions + self.offset).clamp(min=0)  # padding has position -1
        return resid_BTD + tap("embed.position", self.position(rows_BT))


class Norm(nn.Module):
    """LayerNorm (centered) or RMSNorm, with a learned gain and bias where the model has them. out: the name of what it
    gives. heads: of q or k [B, T, H, K], each normed by itself or all together, with one gain or each with its own."""

    ops: Ops = torch_ops

    def __init__(self, config: DecoderConfig, site: str, out: str = "", heads: int | None = None) -> None:
        super().__init__()
        self.site, self.out, self.eps = site, out or site + ".out", config.norm_eps
        self.centered, self.plus_one = config.norm == "layer", config.gain_plus_one
        self.first_axis = -2 if heads is not None and config.qk_norm == "all" else -1
        size = config.d_model if heads is None else config.d_head * (1 if config.qk_norm == "head" else heads)
        bias = config.norm_bias if heads is None else config.qk_norm_bias
        self.weight = nn.Parameter(torch.empty(size)) if config.norm_gain else None
        self.bias = nn.Parameter(torch.empty(size)) if bias else None

    @property
    def gain(self) -> Tensor | None:
        return 1 + self.weight.to(wide(self.weight)) if self.plus_one and self.weight is not None else self.weight

    def forward(self, x_BTD: Float[Tensor, "B T *D"], tap: Tap) -> Float[Tensor, "B T *D"]:
        scale, normalized, gain, whole = self.site + ".scale", self.site + ".normalized", self.gain, None
        if gain is not None and self.first_axis == -1 and not tap.changes(scale, normalized):  # in one pass over memory
            whole = self.ops.norm(x_BTD, gain, self.bias, self.eps, self.centered, tap.wants(scale, normalized))
        if whole is not None:
            return each_tapped(tap, (scale, normalized, self.out), whole)
        wide_BTD = x_BTD.flatten(self.first_axis).to(wide(x_BTD))
        wide_BTD = wide_BTD - self.ops.mean(wide_BTD) if self.centered else wide_BTD
        scale_BT1 = tap(scale, self.ops.root_mean_square(wide_BTD, self.eps))
        normalized_BTD = tap(normalized, (wide_BTD * scale_BT1.reciprocal()).to(x_BTD.dtype).view(x_BTD.shape))
        out_BTD = normalized_BTD if gain is None else normalized_BTD * gain.view(-1, x_BTD.shape[-1])
        out_BTD = out_BTD if self.bias is None else out_BTD + self.bias.view(-1, x_BTD.shape[-1])
        return tap(self.out, out_BTD.to(x_BTD.dtype))


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
        self.q_norm = Norm(config, self.site + "q_norm", heads=config.n_heads) if config.qk_norm else None
        self.k_norm = Norm(config, self.site + "k_norm", heads=config.n_kv_heads) if config.qk_norm else None
        rope, self.window = config.rope_of(layer), config.window_of(layer)
        self.rope, self.interleaved = (None, False) if rope is None else (config.ropes.index(rope), rope.interleaved)
        self.clip, self.softcap = config.qkv_clip, config.attn_softcap
        self.sinks = Sinks(config.n_heads) if config.attn_sinks else None
        self.scale = config.scale_of(layer) * config.d_head**0.5 if config.own_scale else 1.0  # beside 1/√K

    def forward(self, x_BTD: Tensor, info: PassInfo, cache: Cache | None, tap: Tap) -> Float[Tensor, "B T D"]:
        q_BTHK, k_BTGK, v_BTGK = self.project(x_BTD, info, tap)
        k_BSGK, v_BSGK = (k_BTGK, v_BTGK) if cache is None else cache.extend(self.layer, k_BTGK, v_BTGK)
        mask, names = info.masks[self.window], (self.site + "scores", self.site + "pattern", self.site + "z")
        fused = self.softcap is None and info.alibi_BH1S is None and self.sinks is None
        if fused and not tap.wants(*names[:2]):  # the same, without ever holding either
            z_BTHK = tap(names[2], self.ops.attend(q_BTHK, k_BSGK, v_BSGK, mask))
        elif fused and not tap.changes(*names[:2]):  # the same in one pass over memory
            z_BTHK = each_tapped(tap, names, self.ops.attend_recorded(q_BTHK, k_BSGK, v_BSGK, mask))
        else:
            scores_BHTS, softmax = tap(names[0], self.scores(q_BTHK, k_BSGK, info)), self.ops.softmax
            pattern_BHTS = softmax(scores_BHTS) if self.sinks is None else self.sinks(scores_BHTS, softmax)
            z_BTHK = tap(names[2], self.ops.mix(tap(names[1], pattern_BHTS), v_BSGK))
        return self.out(z_BTHK.flatten(-2))

    def scores(self, q_BTHK: Tensor, k_BSGK: Tensor, info: PassInfo) -> Float[Tensor, "B H T S"]:
        """Before the softmax: scaled and masked, capped and with ALiBi's part where the model has them."""
        scores_BHTS = self.ops.scores(q_BTHK, k_BSGK, info.masks[self.window])
        scores_BHTS = scores_BHTS if self.softcap is None else self.ops.softcap(scores_BHTS, self.softcap)
        return scores_BHTS if info.alibi_BH1S is None else scores_BHTS + info.alibi_BH1S

    def project(self, x_BTD: Tensor, info: PassInfo, tap: Tap) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values; queries and keys normed and rotated where the model does so."""
        site, cos_sin = self.site, info.rotary.get(self.rope) if self.rope is not None else None
        qkv_BTN = self.qkv(x_BTD) if self.clip is None else self.qkv(x_BTD).clamp(-self.clip, self.clip)
        q_BTHK, k_BTGK, v_BTGK = qkv_BTN.unflatten(-1, (-1, self.d_head)).split(self.heads, 2)
        q_BTHK, k_BTGK, v_BTGK = tap(site + "q", q_BTHK), tap(site + "k", k_BTGK), tap(site + "v", v_BTGK)
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHK, k_BTGK = self.q_norm(q_BTHK, tap), self.k_norm(k_BTGK, tap)
        if cos_sin is not None:
            q_BTHK = tap(site + "rot_q", self.ops.rotate(q_BTHK, cos_sin, self.interleaved))
            k_BTGK = tap(site + "rot_k", self.ops.rotate(k_BTGK, cos_sin, self.interleaved))
        return q_BTHK if self.scale == 1 else q_BTHK * self.scale, k_BTGK, v_BTGK


class MLP(nn.Module):
    """The MLP: up, a nonlinearity (gated or not), and down; each position by itself."""

    ops: Ops = torch_ops

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.gated, self.activation, inside = config.gated, config.activation, ("pre_linear",) * config.gated
        self.names = [f"blocks.{layer}.mlp.{name}" for name in ("pre", *inside, "post")]
        self.clamp = (config.mlp_limit, config.mlp_alpha)
        # Where gated, the gate's rows stand before the other branch's in one matrix.
        self.up = nn.Linear(config.d_model, config.d_mlp * (2 if config.gated else 1), bias=config.mlp_bias)
        self.down = nn.Linear(config.d_mlp, config.d_model, bias=config.mlp_bias)

    def forward(self, x_BTD: Float[Tensor, "B T D"], tap: Tap) -> Float[Tensor, "B T D"]:
        ops, act, names, whole = self.ops, self.activation, self.names, None
        if not tap.changes(*names[:-1]):  # in one product, where the ops have it
            whole = ops.up(self.up, act, self.gated, x_BTD, self.clamp, tap.wants(*names[:-1]))
        if whole is not None:
            return self.down(each_tapped(tap, names, whole))
        pre_BTF = map(tap, names, self.up(x_BTD).chunk(1 + self.gated, -1))  # the gate's half, and the half it gates
        post_BTF = ops.gate_within(self.clamp, act, *pre_BTF) if self.gated else ops.activation[act](*pre_BTF)
        return self.down(tap(names[-1], post_BTF))


class Block(nn.Module):
    """One layer: attention adds to the residual stream, then the MLP, or both at once; each may have norms around."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.site, self.config = f"blocks.{layer}.", config
        self.post_norm, self.parallel, self.resid_scale = config.post_norm, config.parallel, config.resid_scale
        normed, added = config.reads_norm or config.post_norm, config.added_norm
        self.ln1 = Norm(config, self.site + "ln1") if normed else None
        self.attn = Attention(config, layer)
        self.ln1_post = Norm(config, self.site + "ln1_post", self.site + "attn_out") if added else None
        self.ln2 = Norm(config, self.site + "ln2") if normed and not config.shared_norm else None
        self.mlp = MoE(config, layer, MLP) if config.n_experts else MLP(config, layer)
        self.ln2_post = Norm(config, self.site + "ln2_post", self.site + "mlp_out") if added else None

    def forward(self, resid_BTD: Tensor, info: PassInfo, cache: Cache | None, tap: Tap) -> Float[Tensor, "B T D"]:
        site, before, after = self.site, not self.post_norm, self.post_norm
        pre_BTD = tap(site + "resid_pre", resid_BTD)
        read_BTD = normed(self.ln1, pre_BTD, tap, before)
        attn_BTD = self.added("attn", self.ln1_post, self.attn(read_BTD, info, cache, tap), tap)
        if self.parallel:
            read_BTD = read_BTD if self.ln2 is None else self.ln2(pre_BTD, tap)
            mlp_BTD = self.added("mlp", self.ln2_post, self.mlp(read_BTD, tap), tap)
            return tap(site + "resid_post", pre_BTD + attn_BTD + mlp_BTD)
        mid_BTD = normed(self.ln1, tap(site + "resid_mid", pre_BTD + attn_BTD), tap, after)
        mlp_BTD = self.mlp(normed(self.ln2, mid_BTD, tap, before), tap)
        post_BTD = mid_BTD + self.added("mlp", self.ln2_post, mlp_BTD, tap)
        return normed(self.ln2, tap(site + "resid_post", post_BTD), tap, after)

    def added(self, half: str, norm: Norm | None, out_BTD: Tensor, tap: Tap) -> Float[Tensor, "B T D"]:
        """What attention or the MLP adds to the residual stream: what it gives, or that normed or scaled."""
        if norm is None and self.resid_scale == 1:
            return tap(f"{self.site}{half}_out", out_BTD)
        out_BTD = tap(f"{self.site}{half}.out", out_BTD)
        return norm(out_BTD, tap) if norm is not None else tap(f"{self.site}{half}_out", out_BTD * self.resid_scale)


def normed(norm: Norm | None, x_BTD: Tensor, tap: Tap, here: bool = True) -> Float[Tensor, "B T D"]:
    """x, normed where the model has this norm, and has it here."""
    return norm(x_BTD, tap) if here and norm is not None else x_BTD


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
        self.head = nn.Linear(config.d_embed, config.vocab_size, bias=config.head_bias)
        self.scale, self.softcap = config.logit_scale, config.logit_softcap

    def forward(self, resid_BTD: Float[Tensor, "B T D"], tap: Tap) -> Float[Tensor, "B T V"]:
        resid_BTD = normed(self.ln_final, resid_BTD, tap)
        logits_BTV = self.head(resid_BTD if self.project_out is None else self.project_out(resid_BTD))
        logits_BTV = logits_BTV if self.scale == 1 else logits_BTV * self.scale
        return tap("logits", logits_BTV if self.softcap is None else torch_ops.softcap(logits_BTV, self.softcap))


class Decoder(nn.Module):
    """The whole model: logits [B, T, V] of the tokens given, those in the cache read but not repeated. Weights arrive
    empty. last [B]: one position a text to unembed, and the logits are [B, 1, V]: a vocabulary is wide."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config, self.run_blocks = config, run_blocks
        self.embed = Embed(config)
        self.rotary = nn.ModuleList(Rotary(rope) for rope in config.ropes) if config.ropes else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.unembed = Unembed(config)

    def forward(
        self, tokens: TokenBatch, cache: Cache | None = None, tap: Tap = untapped, last: Int[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B T V"]:
        if cache is not None:
            cache.admit(tokens)
        resid_BTD = self.embed(tokens, tap)
        resid_BTD = self.run_blocks(self.blocks, resid_BTD, self.info(tokens, cache, resid_BTD.dtype), cache, tap)
        if last is not None:
            resid_BTD = resid_BTD[torch.arange(len(last), device=last.device), last][:, None]
        return self.unembed(resid_BTD, tap)

    def info(self, tokens: TokenBatch, cache: Cache | None, dtype: torch.dtype) -> PassInfo:
        """What every block of this pass reads beside the residual stream; `cache` has admitted the tokens."""
        return pass_info(self.config, self.rotary or (), tokens, cache, dtype)  # pyright: ignore[reportArgumentType]
