"""Filters: logits in, logits out; a filter changes them or removes tokens by setting them to -inf.

Pure functions, each equal to transformers' logits processor of that name. They know no model and no text, and they do
not choose: see choose.py. B texts, V vocabulary, S positions so far.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.sample.settings import Sampling

REMOVED = -torch.inf
FEW = 4096  # sorting this many costs less than avoiding the sort
NEARBY = 1e-5  # relative; above the rounding error of a sum of float32 probabilities: a cut farther away is certain


def repetition_penalty(
    logits_BV: Float[Tensor, "B V"],
    ids_BS: Int[Tensor, "B S"],
    seen_mask_BS: Int[Tensor, "B S"],
    penalty: float,
) -> Float[Tensor, "B V"]:
    """Logits of ids already in the text: divided by the penalty where positive, multiplied where negative.

    Padding (mask 0) does not count. transformers' processor alone would penalize it; its `generate` leaves out padding
    on the left only. Source: Keskar et al. 2019 (arXiv 1909.05858), section 4.1.
    """
    width = logits_BV.shape[-1]
    # Padding, and ids beyond the logits, index an extra column, which is dropped again.
    ids_BS = torch.where(seen_mask_BS.bool(), ids_BS, width).clamp(max=width)
    wide_BV = F.pad(logits_BV, (0, 1))
    seen_BS = wide_BV.gather(1, ids_BS)
    penalized_BS = torch.where(seen_BS < 0, seen_BS * penalty, seen_BS / penalty)
    return wide_BV.scatter(1, ids_BS, penalized_BS)[:, :width]


def temperature(logits_BV: Float[Tensor, "B V"], value: float) -> Float[Tensor, "B V"]:
    """Logits divided by the temperature: below 1 sharpens, above 1 flattens."""
    return logits_BV / value


def top_k(logits_BV: Float[Tensor, "B V"], k: int) -> Float[Tensor, "B V"]:
    """The k highest stay, and every token that ties with the k-th (Fan et al. 2018, arXiv 1805.04833)."""
    least_B1 = logits_BV.topk(min(k, logits_BV.shape[-1])).values[:, -1:]
    return torch.where(logits_BV < least_B1, REMOVED, logits_BV)


def top_p(logits_BV: Float[Tensor, "B V"], p: float) -> Float[Tensor, "B V"]:
    """The fewest most probable tokens whose probabilities sum to p or more (Holtzman et al. 2019, arXiv 1904.09751).

    As in transformers, a token goes when the mass of itself and all below it is at most 1 - p; one always stays.
    Among tokens of equal logit the higher ids go first; transformers leaves this to an unstable sort.
    """
    return torch.stack([_only(logits_V, _nucleus(logits_V, p)) for logits_V in logits_BV])


def min_p(logits_BV: Float[Tensor, "B V"], share: float) -> Float[Tensor, "B V"]:
    """Tokens at least `share` times as probable as the top one stay (Nguyen et al. 2024, arXiv 2407.01082)."""
    probs_BV = logits_BV.softmax(-1)
    return torch.where(probs_BV < share * probs_BV.amax(-1, keepdim=True), REMOVED, logits_BV)


def stages(
    logits_BV: Float[Tensor, "B V"],
    settings: Sampling,
    seen_ids_BS: Int[Tensor, "B S"] | None,
    seen_mask_BS: Int[Tensor, "B S"] | None,
) -> list[tuple[str, Float[Tensor, "B V"]]]:
    """Logits after each active filter, in transformers' order; first ("logits", the model's own in float32).

    The seen ids and their mask are read by the repetition penalty alone.
    """
    done = [("logits", logits_BV.float())]
    if settings.repetition_penalty != 1 and seen_ids_BS is not None and seen_mask_BS is not None:
        penalized_BV = repetition_penalty(done[-1][1], seen_ids_BS, seen_mask_BS, settings.repetition_penalty)
        done.append(("repetition_penalty", penalized_BV))
    if not settings.do_sample:
        return done
    if settings.temperature != 1:
        done.append(("temperature", temperature(done[-1][1], settings.temperature)))
    if settings.top_k:
        done.append(("top_k", top_k(done[-1][1], settings.top_k)))
    if settings.top_p < 1:
        done.append(("top_p", top_p(done[-1][1], settings.top_p)))
    if settings.min_p is not None:  # last: relative to the most probable token that is left
        done.append(("min_p", min_p(done[-1][1], settings.min_p)))
    return done


def _only(logits_V: Tensor, ids_N: Tensor) -> Tensor:
    return torch.full_like(logits_V, REMOVED).scatter(0, ids_N, logits_V[ids_N])


def _nucleus(logits_V: Tensor, p: float) -> Tensor:
    """Ids of the nucleus. Sorting a whole vocabulary takes milliseconds, so it is the last resort."""
    ids_N = (logits_V > REMOVED).nonzero()[:, 0]
    if len(ids_N) > FEW:
        for count in (128, FEW):
            nucleus_N = _nucleus_of_best(logits_V, p, count)
            if nucleus_N is not None:
                return nucleus_N
    return _nucleus_by_sorting(logits_V, ids_N, p)


def _nucleus_by_sorting(logits_V: Tensor, ids_N: Tensor, p: float) -> Tensor:
    """The definition. Tokens removed before are padded in front with probability 0, so that sums round alike."""
    ids_N = ids_N.flip(0)  # so that among equal logits the higher ids come, and go, first
    sorted_N, order_N = logits_V[ids_N].sort(stable=True)
    probs_V = F.pad(sorted_N, (len(logits_V) - len(ids_N), 0), value=REMOVED).softmax(-1)
    removed_N = probs_V.cumsum(-1)[len(logits_V) - len(ids_N) :] <= 1 - p
    first = min(int(removed_N.sum()), len(ids_N) - 1) if len(ids_N) else 0  # removed ones come first; one stays
    return ids_N[order_N[first:]]


def _nucleus_of_best(logits_V: Tensor, p: float, count: int) -> Tensor | None:
    """The same from about `count` best tokens; None where the cut is outside them, or within rounding error."""
    least = logits_V.topk(count).values[-1]
    best_N = (logits_V > least).nonzero()[:, 0]  # without the least ones: topk may cut through a tie
    if len(best_N) == 0:
        return None
    best_N = best_N[logits_V[best_N].sort(descending=True, stable=True).indices]
    probs_N = logits_V.double().softmax(-1)[best_N]
    mass_N = 1 - (probs_N.cumsum(0) - probs_N)  # of a token and all below it
    clear = (mass_N - (1 - p)).abs().min() > NEARBY * (1 - p)
    size = int((mass_N > 1 - p).sum())
    return best_N[:size] if clear and 0 < size < len(best_N) else None
