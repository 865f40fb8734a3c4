"""The first answer to a page: what this model is, its values by name, its settings, and what this server allows.

It does not know what the page shows of it.
"""

from dataclasses import asdict, fields
from typing import Any

from cutaway import __version__
from cutaway.apps.server.asks import Answer, ask
from cutaway.apps.server.session import Call
from cutaway.ground.config import DecoderConfig
from cutaway.ground.sites import all_sites
from cutaway.model import architecture
from cutaway.quant.explain import mode_of
from cutaway.sample.settings import ABOUT, Sampling

EXAMPLE = "The capital of France is"


@ask("hello", beside=True)
def hello(call: Call) -> Answer:
    """The model and the limits; the token was read before."""
    lm, config = call.lm, call.lm.config
    precision = mode_of(lm.decoder) or str(lm.decoder.embed.token.weight.dtype).removeprefix("torch.")
    model = _sizes(config) | {
        "name": lm.name, "summary": architecture.facts(config), "type": lm.checkpoint.model_type,
        "precision": precision, "notes": lm.notes,
    }  # fmt: skip
    sites = [
        {"name": name, "shape": site.shape, "formula": site.formula, "parents": list(site.parents)}
        for name, site in all_sites(config).items()
    ]
    defaults = {each.name: each.default for each in fields(Sampling)} | lm.sampling
    settings = {name: {"limits": about.limits, "effect": about.effect} for name, about in ABOUT.items()}
    limits = asdict(call.limits) | {"tokens": min(call.limits.tokens, config.n_positions)}
    chat = lm.has_tokenizer and bool(lm.tokenizer.chat_template)
    about = {"version": __version__, "model": model, "sites": sites, "sampling": defaults, "settings": settings,
             "chat": chat, "example": EXAMPLE, "limits": limits, "token_texts": False}  # fmt: skip
    return Answer(about, python="import cutaway\n\n" + _load(call))


def _sizes(config: DecoderConfig) -> dict[str, Any]:
    """The facts that a drawing needs."""
    names = ("n_layers", "n_heads", "n_kv_heads", "d_model", "d_mlp", "d_head", "vocab_size", "n_positions", "gated")
    more = ("norm", "activation", "post_norm", "final_norm", "tied_head")
    sizes = {name: getattr(config, name) for name in (*names, *more)}
    return sizes | {
        "positions": "rope" if config.ropes else "learned" if config.learned_positions else "alibi",
        "parallel": config.parallel,
        "sinks": config.attn_sinks,
    }


def _load(call: Call) -> str:
    return f"lm = cutaway.load({call.served.loaded})"
