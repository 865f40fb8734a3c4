"""The choice: probabilities in, one token id a text out: the highest, or a draw.

It does not know where the probabilities come from. A draw is an inverse transform: the tokens divide [0, 1) into
intervals as wide as their probabilities, the most probable first and equal ones by id; u falls into one of them.
"""

import hashlib
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor


def greedy(logits_BV: Float[Tensor, "B V"]) -> Int[Tensor, "B"]:
    """Id of the highest logit of each text; the lowest id where several tie."""
    if not logits_BV.is_cpu:
        return logits_BV.argmax(-1)
    # numpy's argmax compares many values at once, torch's one after the other (for 49,152: 5 and 42 µs)
    return torch.from_numpy(logits_BV.detach().numpy().argmax(-1))


def draw(probs_BV: Float[Tensor, "B V"], u_B: Float[Tensor, "B"]) -> Int[Tensor, "B"]:
    """Id on which u falls, for each text: the first whose cumulative probability exceeds u (inverse transform).

    Tokens in descending probability, equal ones by id; sums in float64. Never a token of probability 0: where
    rounding leaves the sum at or below u, the last token that has any. u lies in [0, 1).
    """
    chosen = [_fall(probs_V, u) for probs_V, u in zip(probs_BV, u_B.tolist(), strict=True)]
    return torch.stack(chosen)


def interval(probs_V: Float[Tensor, "V"], token: int) -> tuple[float, float]:
    """The token's interval of cumulative probability, [start, end). The last token's ends at 1, rounding included."""
    probs_V = probs_V.double()
    ids_V = torch.arange(len(probs_V), device=probs_V.device)
    first_V = (probs_V > probs_V[token]) | ((probs_V == probs_V[token]) & (ids_V < token))
    start, width = float(probs_V[first_V].sum()), float(probs_V[token])
    last = int(first_V.sum()) + 1 == int((probs_V > 0).sum())
    return start, 1.0 if last else start + width


def dice(seed: int, batch: int) -> Iterator[Float[Tensor, "B"]]:
    """Uniform numbers u in [0, 1), float64 on the CPU: [B] for each step.

    Row b has its own generator, seeded with a hash of (seed, b): its draws depend neither on the other rows of the
    batch nor on when they end, and neighbouring seeds are unrelated.
    """
    own = [torch.Generator().manual_seed(_seed_of(seed, row)) for row in range(batch)]
    while True:
        yield torch.stack([torch.rand((), generator=generator, dtype=torch.float64, device="cpu") for generator in own])


def _seed_of(seed: int, row: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{row}".encode(), digest_size=4).digest(), "little")


def _fall(probs_V: Tensor, u: float) -> Tensor:
    """The id into whose interval u falls. Most draws fall near the top, so the top k are tried before a full sort."""
    for count in (64, 1024):
        if count < len(probs_V):
            probs_N, ids_N = _by_probability(probs_V, probs_V.topk(count).indices)
            index = int((probs_N.cumsum(0) <= u).sum())
            # topk may cut through a tie at its end: a token of that probability is not taken here.
            if index < count and probs_N[index] > probs_N[-1]:
                return ids_N[index]
    probs_N, ids_N = _by_probability(probs_V, probs_V.nonzero()[:, 0])
    index = int((probs_N.cumsum(0) <= u).sum())
    return ids_N[min(index, len(ids_N) - 1)]


def _by_probability(probs_V: Tensor, ids_N: Tensor) -> tuple[Tensor, Tensor]:
    """These tokens in the order of the draw: their probabilities in float64, and their ids."""
    ids_N = ids_N.sort().values
    probs_N, order_N = probs_V[ids_N].double().sort(descending=True, stable=True)
    return probs_N, ids_N[order_N]
