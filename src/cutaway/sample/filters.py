"""Filters: logits in, logits out; a filter moves them or removes tokens by setting them to -inf.

Pure functions, each equal to transformers' processor or warper of that name. They know no model and no text, and they
do not choose: see choose.py. B texts, V vocabulary, S places already seen.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.sample.settings import Sampling

REMOVED = -torch.inf
FEW = 4096  # sorting this many costs less than looking for a way round it
NEARBY = 1e-5  # relative; more than rounding moves a sum of float32 probabilities, so a cut clear of it is the cut


def repetition_penalty(
    logits_BV: Float[Tensor, "B V"],
    ids_BS: Int[Tensor, "B S"],
    seen_mask_BS: Int[Tensor, "B S"],
    penalty: float,
) -> Float[Tensor, "B V"]:
    """Logits of ids already in the text: divided by the penalty where positive, multiplied where negative.

    Only ids at real places (mask 1) count. transformers' processor alone would penalize padding too; its `generate`
    leaves out padding on the left only. Source: Keskar et al. 2019 (arXiv 1909.05858), section 4.1.
    """
    width = logits_BV.shape[-1]
    # Padding, and ids beyond the logits, point to one more column, which is dropped again.
    ids_BS = torch.where(seen_mask_BS.bool(), ids_BS, width).clamp(max=width)
    wide_BV = F.pad(logits_BV, (0, 1))
    seen_BS = wide_BV.gather(1, ids_BS)
    moved_BS = torch.where(seen_BS < 0, seen_BS * penalty, seen_BS / penalty)
    return wide_BV.scatter(1, ids_BS, moved_BS)[:, :width]


def temperature(logits_BV: Float[Tensor, "B V"], value: float) -> Float[Tensor, "B V"]:
    """Logits divided by the temperature: below 1 sharpens, above 1 flattens."""
    return logits_BV / value


def top_k(logits_BV: Float[Tensor, "B V"], k: int) -> Float[Tensor, "B V"]:
    """The k highest stay, and with them every token that ties with the k-th (Fan et al. 2018, arXiv 1805.04833)."""
    least_B1 = logits_BV.topk(min(k, logits_BV.shape[-1])).values[:, -1:]
    return torch.where(logits_BV < least_B1, REMOVED, logits_BV)


def top_p(logits_BV: Float[Tensor, "B V"], p: float) -> Float[Tensor, "B V"]:
    """The most probable stay, as few as reach the mass p together (Holtzman et al. 2019, arXiv 1904.09751).

    As in transformers, a token goes when the mass of itself and all below it is at most 1 - p; one always stays.
    Among tokens of equal logit the higher ids go first, where transformers leaves it to a sort that is not stable.
    """
    return torch.stack([_keep(logits_V, _nucleus(logits_V, p)) for logits_V in logits_BV])


def min_p(logits_BV: Float[Tensor, "B V"], share: float) -> Float[Tensor, "B V"]:
    """Tokens stay that are at least `share` times as probable as the first (Nguyen et al. 2024, arXiv 2407.01082)."""
    probs_BV = logits_BV.softmax(-1)
    return torch.where(probs_BV < share * probs_BV.amax(-1, keepdim=True), REMOVED, logits_BV)


def stages(
    logits_BV: Float[Tensor, "B V"],
    settings: Sampling,
    seen_ids_BS: Int[Tensor, "B S"] | None,
    seen_mask_BS: Int[Tensor, "B S"] | None,
) -> list[tuple[str, Float[Tensor, "B V"]]]:
    """Logits after each filter that is on, in transformers' order; first ("logits", the model's own in float32).

    The seen ids and their mask are read only where there is a repetition penalty.
    """
    done = [("logits", logits_BV.float())]
    if settings.repetition_penalty != 1 and seen_ids_BS is not None and seen_mask_BS is not None:
        moved_BV = repetition_penalty(done[-1][1], seen_ids_BS, seen_mask_BS, settings.repetition_penalty)
        done.append(("repetition_penalty", moved_BV))
    if not settings.do_sample:
        return done
    if settings.temperature != 1:
        done.append(("temperature", temperature(done[-1][1], settings.temperature)))
    if settings.top_k:
        done.append(("top_k", top_k(done[-1][1], settings.top_k)))
    if settings.top_p < 1:
        done.append(("top_p", top_p(done[-1][1], settings.top_p)))
    if settings.min_p is not None:  # last, so that its measure is the most probable token of what is left
        done.append(("min_p", min_p(done[-1][1], settings.min_p)))
    return done


def _keep(logits_V: Tensor, ids_N: Tensor) -> Tensor:
    return torch.full_like(logits_V, REMOVED).scatter(0, ids_N, logits_V[ids_N])


def _nucleus(logits_V: Tensor, p: float) -> Tensor:
    """Ids that top_p keeps. Sorting a whole vocabulary takes milliseconds, so it is the last resort."""
    alive_N = (logits_V > REMOVED).nonzero()[:, 0]
    if len(alive_N) > FEW:
        for count in (128, FEW):
            kept_N = _nucleus_of_best(logits_V, p, count)
            if kept_N is not None:
                return kept_N
    return _nucleus_by_sorting(logits_V, alive_N, p)


def _nucleus_by_sorting(logits_V: Tensor, alive_N: Tensor, p: float) -> Tensor:
    """The definition. What was removed before stands in front with probability 0, so that sums round alike."""
    alive_N = alive_N.flip(0)  # so that among equals the higher ids stand, and go, first
    sorted_N, order_N = logits_V[alive_N].sort(stable=True)
    probs_V = F.pad(sorted_N, (len(logits_V) - len(alive_N), 0), value=REMOVED).softmax(-1)
    gone_N = probs_V.cumsum(-1)[len(logits_V) - len(alive_N) :] <= 1 - p
    first = min(int(gone_N.sum()), len(alive_N) - 1) if len(alive_N) else 0  # gone ones stand first; one stays
    return alive_N[order_N[first:]]


def _nucleus_of_best(logits_V: Tensor, p: float, count: int) -> Tensor | None:
    """The same from about `count` best tokens, or None where the cut lies outside them or too near to rounding."""
    least = logits_V.topk(count).values[-1]
    best_N = (logits_V > least).nonzero()[:, 0]  # without those that tie with the last, of which some may be missing
    if len(best_N) == 0:
        return None
    best_N = best_N[logits_V[best_N].sort(descending=True, stable=True).indices]
    probs_N = logits_V.double().softmax(-1)[best_N]
    mass_N = 1 - (probs_N.cumsum(0) - probs_N)  # of a token and all below it
    clear = (mass_N - (1 - p)).abs().min() > NEARBY * (1 - p)
    kept = int((mass_N > 1 - p).sum())
    return best_N[:kept] if clear and 0 < kept < len(best_N) else None
