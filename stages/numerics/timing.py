"""A time is a median with its interval: clocks of busy machines have outliers, and only upwards.

The interval needs no distribution: the number of n independent values below the true median is Binomial(n, 1/2), so
that the order statistics at its quantiles enclose the median with at least the wanted probability (n >= 6 for 95 %).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Median:
    value: float
    low: float
    high: float


def median(values: Sequence[float], level: float = 0.95) -> Median:
    """Median of the values; the whole range is the interval where they are too few."""
    from scipy.stats import binom  # seconds to import

    ordered = np.sort(np.asarray(values, dtype=np.float64))
    below = max(int(binom.ppf((1 - level) / 2, len(ordered), 0.5)) - 1, 0)
    return Median(float(np.median(ordered)), float(ordered[below]), float(ordered[-1 - below]))
