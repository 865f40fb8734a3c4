"""Which layer's rounding changes the next token? Each 8-bit layer by itself in a full-precision model, and its share.

`alone` is KL(full ‖ only this layer in 8 bits), the mean over the positions, by a pass that starts at the layer's
block. These do not sum to the KL of all layers in 8 bits: errors of one layer add to another's, or cancel them. While
roundings are small, KL is half a squared length: with e_i the change of the logits by layer i alone, and e that by all
layers, KL(set) = ½ |Σ e_i|², where ⟨a, b⟩ is the covariance of two changes under the full model's next-token
probabilities. So ½ ⟨e_i, e⟩ are shares that do sum to the KL of all (they are its Shapley values: a layer's own KL and
half of each interaction), and full precision in the layers K lowers that KL by

    ⟨e_K, e⟩ - ½ |e_K|² = 2 · (sum of the shares of K) - KL(full ‖ only K in 8 bits).

Trust it where the shares sum to `total`: SmolLM2's do to 1e-4, in the default mode. They do not where a mode rounds
activations coarsely, since then a small change elsewhere flips codes, and a layer's error in company is another than
alone. The suggestion is therefore tried: `measured` is a pass with these layers kept. The figures are of the given
texts, which others resemble more or less. This file knows two decoders; it does not know text, nor an 8-bit format.
"""

import copy
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.analysis.resume import from_block
from cutaway.ground.errors import BadArgument, BadText
from cutaway.model.decoder import Decoder
from cutaway.model.tap import untapped
from cutaway.quant.explain import int8_layers
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run
from cutaway.weights.progress import Progress

AT_ONCE = 32  # positions whose logits are compared at a time


@dataclass(frozen=True)
class LayerDamage:
    """What one layer's rounding does. nats are means over the positions.

    name: as `keep=` takes it. alone: KL(full ‖ only this layer in 8 bits). share: its part of the KL of all layers in
    8 bits, see the module; negative where it cancels errors of others. agreement: of the likeliest token with full
    precision, 0 to 1, with only this layer in 8 bits. bytes: in 8 bits; full_bytes: in full precision.
    """

    name: str
    alone: float
    share: float
    agreement: float
    bytes: int
    full_bytes: int

    @property
    def saves(self) -> float:
        """By how many nats full precision in this layer alone lowers the KL of all, as predicted."""
        return 2 * self.share - self.alone


@dataclass(frozen=True)
class Damage:
    """Every 8-bit layer in the order of the pass. nats are means over `positions` positions.

    total, agreement: of all layers in 8 bits. keep: the layers with the largest shares, for `keep=`. predicted:
    the KL with these in full precision and the others in 8 bits, by the formula of the module; measured: by a pass.
    """

    layers: tuple[LayerDamage, ...]
    total: float
    agreement: float
    keep: tuple[str, ...]
    predicted: float
    measured: float
    positions: int


def damage(
    full: Decoder, int8: Decoder, tokens: Tokens, *, suggest: int = 3, progress: Progress | None = None
) -> Damage:
    """Both decoders are of the same files, `full` in full precision; `int8` says which layers are in 8 bits, and how.

    suggest: how many layers to name. Raises BadArgument where it is not 1 to the number of layers, BadText for fewer
    than 2 tokens.
    """
    names = list(int8_layers(int8))
    _check(len(names), tokens, suggest)
    with torch.no_grad():
        mixed = MixedModel(full, int8, tokens)
        all_PV = mixed.logits(names)
        whole = mixed.change(all_PV, all_PV)
        found = []
        for number, name in enumerate(names):
            if progress:
                progress(number, len(names), f"{name} alone in 8 bits")
            alone = mixed.change(mixed.logits([name]), all_PV)
            sizes = (nbytes(decoder.get_submodule(name)) for decoder in (int8, full))
            found.append(LayerDamage(name, alone.kl, alone.covariance / 2, alone.agreement, *sizes))
        keep = tuple(layer.name for layer in sorted(found, key=lambda layer: -layer.share)[:suggest])
        kept = mixed.change(mixed.logits(keep), all_PV)
        rest = mixed.change(mixed.logits([name for name in names if name not in keep]), all_PV)
    predicted = whole.kl - (kept.covariance - kept.kl)
    return Damage(tuple(found), whole.kl, whole.agreement, keep, predicted, rest.kl, len(mixed.full_PV))


class Change(NamedTuple):
    """What a change of the logits does: the means over the positions. covariance: with another change."""

    kl: float
    covariance: float
    agreement: float


class MixedModel:
    """A full-precision model in which some layers are in 8 bits, and its logits at real positions."""

    def __init__(self, full: Decoder, int8: Decoder, tokens: Tokens) -> None:
        leaves = {id(module): module for module in full.modules() if not list(module.children())}
        self.decoder = copy.deepcopy(full, leaves)  # blocks of its own around the same layers: no weight is copied
        self.full, self.int8, self.tokens = full, int8, tokens
        self.recorded = run(full, tokens, ["blocks.*.resid_pre", "logits"])
        self.full_PV = self._real(self.recorded["logits"])
        self.probs_PV = self.full_PV.softmax(-1)

    def logits(self, names: Collection[str]) -> Float[Tensor, "P V"]:
        """With these layers in 8 bits, from the first block that has one of them on."""
        first = min((_block(name, len(self.decoder.blocks)) for name in names), default=len(self.decoder.blocks) - 1)
        self._put(self.int8, names)
        resid_BTD = self.recorded[f"blocks.{first}.resid_pre"]
        resid_BTD = from_block(self.decoder, self.tokens, first, resid_BTD)
        logits_PV = self._real(self.decoder.unembed(resid_BTD, untapped))
        self._put(self.full, names)
        return logits_PV

    def change(self, logits_PV: Float[Tensor, "P V"], other_PV: Float[Tensor, "P V"]) -> Change:
        """From the full model's logits to these; covariance: with the change to the other ones.

        KL is log Σ p·exp(c) where Σ p·c = 0, so log(1 + Σ p·(exp(c) - 1 - c)): no term is negative, nothing cancels.
        """
        kl, covariance, same = [], [], []
        for p, full, *both in zip(*map(_chunks, (self.probs_PV, self.full_PV, logits_PV, other_PV)), strict=True):
            one, other = (change - (p * change).sum(-1, keepdim=True) for change in (each - full for each in both))
            kl.append((p * (one.expm1() - one)).sum(-1).double().log1p())
            covariance.append((p * one * other).sum(-1).double())
            same.append((both[0].argmax(-1) == full.argmax(-1)).double())
        return Change(*(float(torch.cat(values).mean()) for values in (kl, covariance, same)))

    def _put(self, source: Decoder, names: Collection[str]) -> None:
        for name in names:
            self.decoder.set_submodule(name, source.get_submodule(name))

    def _real(self, logits_BTV: Tensor) -> Float[Tensor, "P V"]:
        """At real positions, at least in float32."""
        wide = torch.promote_types(logits_BTV.dtype, torch.float32)
        return logits_BTV[self.tokens.mask.bool()].to(wide)


def _chunks(values_PV: Tensor) -> tuple[Tensor, ...]:
    return values_PV.split(AT_ONCE)


def nbytes(layer: nn.Module) -> int:
    """Bytes of a layer's weights; a tied head's are the embedding's own in full precision."""
    return sum(tensor.nbytes for tensor in layer.state_dict().values())


def _block(name: str, blocks: int) -> int:
    """The block from which on a layer changes values; the last one for the head."""
    return int(name.split(".")[1]) if name.startswith("blocks.") else blocks - 1


def require_full_precision(decoder: Decoder) -> None:
    """Raises BadArgument for a decoder with layers in 8 bits."""
    if int8_layers(decoder):
        do = "load it with quantize=None, or the model that it was made from"
        raise BadArgument("a model in 8 bits", "one in full precision, to compare its layers with", do)


def _check(layers: int, tokens: Tokens, suggest: int) -> None:
    if not 1 <= suggest <= layers:
        raise BadArgument(f"suggest={suggest}", f"1 to {layers}, the layers in 8 bits", "pass a number in between")
    count = int(tokens.lengths.sum())
    if count < 2:
        raise BadText(f"a text of {count} token", "at least 2 tokens", "use a longer text")
