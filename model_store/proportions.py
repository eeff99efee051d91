"""Statistics of shares of images: the interval of one accuracy, and a test between two."""

import math


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, by default at 95 %.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    denominator = 1 + z * z / trials
    return (max(0.0, (centre - half) / denominator), min(1.0, (centre + half) / denominator))


def mcnemar(gained: int, lost: int) -> float:
    """Return the probability of at least `lost` losses if gains and losses are equally likely.

    Source: McNemar 1947, exact and one-sided.
    """
    images = gained + lost
    ways, as_many_losses = 1, 0  # binomial coefficients of 0, 1, … gains
    for gains in range(gained + 1):
        as_many_losses += ways
        ways = ways * (images - gains) // (gains + 1)
    return float(as_many_losses / 2**images)
