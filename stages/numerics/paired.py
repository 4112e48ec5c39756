"""Two systems on the same clips: differences, and how to compare at an equal score what a temperature trades off.

Scores of both under the same bootstrap weights (numerics/bootstrap.py) differ by d_r in resample r; what clips have in
common cancels, so the interval of d is far narrower than those of the scores. Values of single clips have a second
test, Wilcoxon's of signed ranks.

A system with a temperature is a curve (x(T), y(T)). At another system's x its y is read from the polyline through the
measured points, where it first passes x going up in T; where it never does, at the measured point nearest in x.

Bradley Efron, Robert Tibshirani: An Introduction to the Bootstrap. 1993. Frank Wilcoxon: Individual comparisons by
ranking methods. 1945.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.numerics import bootstrap


@dataclass(frozen=True)
class Difference:
    """One system's score less the other's."""

    value: float
    low: float
    high: float
    p: float | None = None
    """Wilcoxon's two-sided p over clips; None for distances between sets."""

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def difference(one: float, other: float, ones: np.ndarray, others: np.ndarray) -> Difference:
    """Of two scores, and of both under the same weights [R]."""
    found = bootstrap.interval(one - other, ones - others)
    return Difference(one - other, found.low, found.high)


def wilcoxon(differences: np.ndarray) -> float:
    """The two-sided p of differences of clips [num_clips]; 1 where all are 0."""
    from scipy.stats import wilcoxon as test

    found: Any = test(differences) if np.any(differences) else None
    return 1.0 if found is None else float(found.pvalue)


@dataclass(frozen=True)
class Place:
    """On a polyline of K points: between point `index` and the next, at `fraction` of the way; each [...]."""

    index: np.ndarray
    fraction: np.ndarray
    missed: np.ndarray
    """What was asked for less what is there; 0 where the polyline passes it."""

    def of(self, y: np.ndarray) -> np.ndarray:
        """Another coordinate of the points, [K, ...], at these places."""
        first, second = (np.take_along_axis(y, self.index[None] + k, axis=0)[0] for k in (0, 1))
        return first + self.fraction * (second - first)


def crossing(x: np.ndarray, at: np.ndarray) -> Place:
    """Where polylines x [K, ...], K at least 2, first pass `at` [...]."""
    nearest = np.abs(x - at).argmin(axis=0)
    index = np.minimum(nearest, len(x) - 2)
    fraction = (nearest - index).astype(np.float64)
    missed = at - np.take_along_axis(x, nearest[None], axis=0)[0]
    for k in reversed(range(len(x) - 1)):
        inside = (np.minimum(x[k], x[k + 1]) <= at) & (at <= np.maximum(x[k], x[k + 1]))
        span = np.where(x[k + 1] == x[k], 1.0, x[k + 1] - x[k])
        index, missed = np.where(inside, k, index), np.where(inside, 0.0, missed)
        fraction = np.where(inside, (at - x[k]) / span, fraction)
    return Place(index, fraction, missed)
