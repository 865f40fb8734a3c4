"""DecoderConfig: the facts that make one decoder differ from another, as data.

It does not know Hugging Face's names for them (weights/families translates), nor how a value is computed.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal

Norm = Literal["layer", "rms"]
Activation = Literal["relu", "relu2", "gelu", "gelu_tanh", "silu"]
RopeKind = Literal["default", "linear", "llama3", "yarn", "longrope", "proportional"]


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions: pairs of the first `dims` components of a head are rotated by position x frequency.

    kind "default" is Su et al. 2021 (arXiv 2104.09864); "linear" divides every frequency by `factor` (Chen et al.
    2023, arXiv 2306.15595); "llama3" divides only the slow ones (Llama 3.1); "yarn" blends the two and scales the
    result by `attention_factor` (Peng et al. 2023, arXiv 2309.00071); "longrope" divides each frequency by a factor of
    its own (Ding et al. 2024, arXiv 2402.13753); "proportional" leaves the slow ones at zero.
    """

    theta: float
    dims: int
    kind: RopeKind = "default"
    factor: float = 1.0
    original_context: int = 0
    low_freq_factor: float = 1.0  # llama3: frequencies with waves longer than original_context / this: / factor
    high_freq_factor: float = 4.0  # llama3: frequencies with waves shorter than original_context / this: unchanged
    beta_fast: float = 32.0  # yarn: pairs with more rotations than this over the context are unchanged
    beta_slow: float = 1.0  # yarn: pairs with fewer rotations than this have their frequency divided by factor
    truncate: bool = True  # yarn: round the ends of the ramp between the two to pair indices
    attention_factor: float = 1.0  # yarn, longrope: multiplies both rotated q and rotated k
    interleaved: bool = False  # a pair is two neighbours, not the same component of the two halves
    short_factors: tuple[float, ...] = ()  # longrope: by pair, for texts within original_context
    long_factors: tuple[float, ...] = ()  # longrope: by pair, for longer texts
    pairs: int = 0  # proportional: how many pairs rotate


@dataclass(frozen=True)
class AlibiConfig:
    """ALiBi (Press et al. 2022, arXiv 2108.12409): a head's slope x the position attended to, added to its scores.

    bfloat16: slope, position and product are rounded to bfloat16. scale: multiplies the product.
    """

    slopes: tuple[float, ...]
    scale: float = 1.0
    bfloat16: bool = False


@dataclass(frozen=True)
class DecoderConfig:
    """The facts of one decoder. Sizes count elements; names in capitals are the axes of ground/shapes.py."""

    vocab_size: int  # V
    n_layers: int
    d_model: int  # D
    n_heads: int  # H
    n_kv_heads: int  # G; equal to n_heads unless heads share keys and values
    d_head: int  # K
    d_mlp: int  # F
    n_positions: int  # the context length, in tokens
    d_embed: int  # E; differs from D only where the model projects in and out (opt-350m)

    norm: Norm
    norm_eps: float
    activation: Activation
    post_norm: bool = False  # norms after each residual sum (opt-350m) instead of before attention and MLP
    final_norm: bool = True
    rope: RopeConfig | None = None  # None, and no ALiBi: learned positions, added to the embedding
    position_offset: int = 0  # rows of the position table before position 0 (OPT: 2)
    gated: bool = False  # MLP: act(gate) * up instead of act(up)
    qkv_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    mlp_limit: float | None = None  # gated: act(gate) · (1 + up), the gate held below it and up within it (gpt-oss)
    mlp_alpha: float = 1.0  # with mlp_limit: act(alpha · gate) / alpha
    tied_head: bool = True  # the unembedding is the embedding table

    norm_weights: Literal["all", "gain", "none"] = "all"  # all: a gain, and in LayerNorm a bias
    gain_plus_one: bool = False  # norms multiply by 1 + w instead of w (Gemma, Nemotron)
    pre_norm: bool = True  # without, and without post_norm, attention and MLP read the residual stream itself (OLMo 2)
    added_norm: bool = False  # a norm on what attention and MLP add to the residual stream (Gemma 2)
    embed_norm: bool = False  # a norm on the embedding (BLOOM)
    qk_norm: Literal["head", "heads", "all"] | None = None  # of q and k: by head with one gain or with each its own;
    qk_norm_bias: bool = False  # or of all heads together
    n_experts: int = 0  # X: the MLP is a mixture of so many, each gated and F wide; 0: it is one MLP
    experts_per_token: int = 0  # how many of them a token chooses
    normalized_scores: bool = False  # the scores of the chosen ones sum to 1
    router_bias: bool = False
    parallel: bool = False  # attention and MLP read the same residual stream
    shared_norm: bool = False  # parallel: the MLP reads what attention reads
    alibi: AlibiConfig | None = None
    layer_ropes: tuple[RopeConfig | None, ...] = ()  # by layer where layers differ; None: no positions
    layer_windows: tuple[int | None, ...] = ()  # by layer: how many positions are attended to, itself too; None: all
    attn_scale: float | None = None  # scores are q · k times this; None: 1/√K
    scale_by_layer: bool = False  # scores are also divided by the layer's number, from 1
    attn_softcap: float | None = None  # scores become cap · tanh(scores / cap) (Gemma 2)
    attn_sinks: bool = False  # each head has a learned score that joins its softmax and is dropped (gpt-oss)
    qkv_clip: float | None = None  # q, k and v are held between -clip and clip
    embed_scale: float = 1.0  # multiplies the embedding
    resid_scale: float = 1.0  # multiplies what attention and MLP add to the residual stream
    logit_scale: float = 1.0  # multiplies the logits
    logit_softcap: float | None = None
    head_bias: bool = False

    def __repr__(self) -> str:
        """What differs from the defaults."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        own = [f"{f.name}={said[f.name]!r}" for f in fields(self) if said[f.name] != f.default]
        return f"DecoderConfig({', '.join(own)})"

    @property
    def projected(self) -> bool:
        """Whether project_in and project_out map between the embedding width E and the model width D."""
        return self.d_embed != self.d_model

    @property
    def norm_gain(self) -> bool:
        return self.norm_weights != "none"

    @property
    def norm_bias(self) -> bool:
        """LayerNorm has a bias unless it is left out, RMSNorm has none."""
        return self.norm == "layer" and self.norm_weights == "all"

    @property
    def reads_norm(self) -> bool:
        """Whether attention and MLP read the residual stream through a norm."""
        return self.pre_norm and not self.post_norm

    @property
    def scales_added(self) -> bool:
        """Whether what attention and MLP give is normed or scaled before it is added to the residual stream."""
        return self.added_norm or self.resid_scale != 1

    @property
    def learned_positions(self) -> bool:
        """Whether a table of position vectors is added to the embedding."""
        return self.rope is None and not self.layer_ropes and self.alibi is None

    @property
    def ropes(self) -> tuple[RopeConfig, ...]:
        """The different rotary positions of the layers."""
        return tuple(dict.fromkeys(rope for rope in (self.layer_ropes or (self.rope,)) if rope is not None))

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The different windows of the layers."""
        return tuple(dict.fromkeys(self.layer_windows or (None,)))

    def rope_of(self, layer: int) -> RopeConfig | None:
        return self.layer_ropes[layer] if self.layer_ropes else self.rope

    def window_of(self, layer: int) -> int | None:
        return self.layer_windows[layer] if self.layer_windows else None

    @property
    def own_scale(self) -> bool:
        """Whether scores are scaled by another number than 1/√K."""
        return self.attn_scale is not None or self.scale_by_layer

    def scale_of(self, layer: int) -> float:
        """What q · k is multiplied by."""
        scale = self.d_head**-0.5 if self.attn_scale is None else self.attn_scale
        return scale / (layer + 1) if self.scale_by_layer else scale


def config_of(data: dict[str, Any]) -> DecoderConfig:
    """The config of what dataclasses.asdict made of it, also after a way through JSON, which has no tuples."""
    parts: dict[str, Any] = {name: _tuples(value) for name, value in data.items()}
    parts["rope"] = _rope(data["rope"])
    parts["layer_ropes"] = tuple(map(_rope, data.get("layer_ropes", ())))
    alibi = data.get("alibi")
    parts["alibi"] = None if alibi is None else AlibiConfig(**{name: _tuples(value) for name, value in alibi.items()})
    return DecoderConfig(**parts)


def _rope(data: dict[str, Any] | None) -> RopeConfig | None:
    return None if data is None else RopeConfig(**{name: _tuples(value) for name, value in data.items()})


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
