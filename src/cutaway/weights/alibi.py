"""The slopes of ALiBi's heads (Press et al. 2022, arXiv 2108.12409), as published models have them.

It does not know families, nor what is done with a slope.
"""

import math


def slopes(heads: int) -> tuple[float, ...]:
    """2^(-8/n), 2^(-16/n), … for a power of two n of heads; further heads take every other slope of 2n heads."""
    power = 2 ** math.floor(math.log2(heads))
    more = _geometric(2 * power)[::2][: heads - power]
    return (*_geometric(power), *more)


def slopes_of_halves(heads: int) -> tuple[float, ...]:
    """The same for a power of two; for another count those of the next one, every other first, then the rest."""
    power = 2 ** math.ceil(math.log2(heads))
    given = _geometric(power)
    return given if power == heads else (*given[1::2], *given[::2])[:heads]


def _geometric(heads: int) -> tuple[float, ...]:
    return tuple(2 ** (-8 * (i + 1) / heads) for i in range(heads))
