"""DecoderConfig: the facts that make one decoder differ from another, as data.

It does not know Hugging Face's names for them (weights/families translates), nor how a value is computed.
"""

from dataclasses import dataclass
from typing import Literal

Norm = Literal["layer", "rms"]
Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]
RopeKind = Literal["default", "linear", "llama3", "yarn"]


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions: pairs of the first `dims` components of a head are rotated by position x frequency.

    kind "default" is Su et al. 2021 (arXiv 2104.09864); "linear" divides every frequency by `factor` (Chen et al.
    2023, arXiv 2306.15595); "llama3" divides only the slow ones (Llama 3.1); "yarn" blends the two and scales the
    result by `attention_factor` (Peng et al. 2023, arXiv 2309.00071).
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
    attention_factor: float = 1.0  # yarn: multiplies both rotated q and rotated k


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
    rope: RopeConfig | None = None  # None: learned positions, added to the embedding
    position_offset: int = 0  # rows of the position table before position 0 (OPT: 2)
    gated: bool = False  # MLP: act(gate) * up instead of act(up)
    qkv_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    tied_head: bool = True  # the unembedding is the embedding table

    @property
    def projected(self) -> bool:
        """Whether project_in and project_out map between the embedding width E and the model width D."""
        return self.d_embed != self.d_model

    @property
    def norm_bias(self) -> bool:
        """LayerNorm has a bias, RMSNorm has none."""
        return self.norm == "layer"
