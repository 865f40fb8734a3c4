"""What many config.json files say by the same names: sizes, windows, layer types.

It knows names that families share and no family; defaults come from the family that asks.
"""

from collections.abc import Callable
from typing import Any

from cutaway.weights.config_reader import ConfigReader

LAYER_TYPES = ("full_attention", "sliding_attention")
# Attributes that modeling files read for training, other heads or speed.
HARMLESS = ("attention_dropout", "hidden_dropout", "pad_token_id", "use_cache", "_attn_implementation", "is_decoder")


def common(
    config: ConfigReader,
    *,
    vocab: int,
    width: int,
    layers: int,
    heads: int,
    mlp: int,
    positions: int,
    kv_heads: int | None = None,
    head_dim: int | bool = True,
    activation: tuple[str, str] = ("hidden_act", "silu"),
    tied: bool = False,
) -> dict[str, Any]:
    """The facts that most families give by the same names, as keyword arguments of DecoderConfig.

    The arguments are transformers' defaults. kv_heads: None where each head has its own. head_dim: a default, True for
    the width that the heads divide the model's into, False where the attribute is not read.
    """
    d_model, n_heads = config.size("hidden_size", width), config.size("num_attention_heads", heads)
    n_kv_heads = config.size("num_key_value_heads", kv_heads or n_heads, optional=True)
    if config.config.get("num_key_value_heads", 0) is None:
        n_kv_heads = n_heads
    config.no_effect(*HARMLESS)
    return {
        "vocab_size": config.size("vocab_size", vocab),
        "n_layers": config.size("num_hidden_layers", layers),
        "d_model": d_model,
        "n_heads": n_heads,
        "n_kv_heads": shared_heads(config, n_heads, n_kv_heads),
        "d_head": _head_width(config, d_model, n_heads, head_dim),
        "d_mlp": config.size("intermediate_size", mlp),
        "n_positions": config.size("max_position_embeddings", positions),
        "d_embed": d_model,
        "activation": config.activation(*activation),
        "tied_head": config.take("tie_word_embeddings", tied),
    }


def shared_heads(config: ConfigReader, heads: int, kv_heads: int) -> int:
    """kv_heads, where they divide the heads: each is shared by as many."""
    if heads % kv_heads:
        raise config.wrong(f"{heads} heads for {kv_heads} key/value heads", "a number that these divide")
    return kv_heads


def _head_width(config: ConfigReader, width: int, heads: int, head_dim: int | bool) -> int:
    if head_dim is False:
        d_head = config.head_width(width, heads)
        config.require("head_dim", d_head, "is another width than the heads divide the model's into")
        return d_head
    if head_dim is not True:
        return config.size("head_dim", head_dim)
    if config.config.get("head_dim") is not None:
        return config.size("head_dim", 1)
    config.no_effect("head_dim")
    return config.head_width(width, heads)


def layer_types(config: ConfigReader, n_layers: int, local: Callable[[int], bool]) -> list[str]:
    """Each layer's type, "full_attention" or "sliding_attention". local(layer): whether it is the latter by default."""
    given: list[Any] = config.take("layer_types", [LAYER_TYPES[local(i)] for i in range(n_layers)], list)
    unknown = [kind for kind in given if kind not in LAYER_TYPES]
    if unknown or len(given) < n_layers:
        found = f"layer_types with {unknown[0]!r}" if unknown else f"layer_types of {len(given)} layers"
        raise config.wrong(found, f"{' or '.join(LAYER_TYPES)} for each of {n_layers} layers")
    return given[:n_layers]


def windows(config: ConfigReader, types: list[str], size: int | None) -> tuple[int | None, ...]:
    """The window of each layer, () where none has one. size: sliding_window."""
    if size is None or LAYER_TYPES[1] not in types:
        if LAYER_TYPES[1] in types:
            off = "use_sliding_window" in config.read and not config.config.get("use_sliding_window")
            missing = "use_sliding_window=true" if off else "sliding_window"
            raise config.wrong(f"a layer of sliding_attention without {missing}", "it, or full_attention only")
        return ()
    return tuple(size if kind == LAYER_TYPES[1] else None for kind in types)


def sliding_window(config: ConfigReader, default: int | None) -> int | None:
    """The window's width; None where config.json says null, or nothing and there is no default."""
    config.no_effect("sliding_window")
    given = config.config.get("sliding_window", default)
    return None if given is None else config.size("sliding_window", given)


def experts(config: ConfigReader, count: str, default: int, per_token: int) -> dict[str, Any]:
    """The facts of a mixture of experts, as keyword arguments of DecoderConfig. count: the name of their number."""
    n_experts, chosen = config.size(count, default), config.size("num_experts_per_tok", per_token)
    if chosen > n_experts:
        raise config.wrong(f"num_experts_per_tok={chosen} of {n_experts} experts", "as many as there are at most")
    config.no_effect("router_aux_loss_coef", "output_router_logits")
    return {"n_experts": n_experts, "experts_per_token": chosen, "gated": True, "mlp_bias": False}
