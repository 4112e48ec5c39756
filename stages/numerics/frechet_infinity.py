"""The Frechet distance that infinitely many samples would have: FD_N is biased upwards by about c / N.

    FD_N ~ FD_inf + c / N:   a least-squares line through FD at several N, its value at 1/N = 0

The N lie evenly in 1/N from all the samples down to a quarter of them. Each is the mean over seeded subsets, drawn
without replacement so that every sample is used equally often: two of N/2, four of N/4. A subset holds as large a share
of every group (class) as the whole: were the whole balanced and its subsets not, the line would be bent. The
reference's Gaussian stays as it is: its own error, that of a finite test set, is the same for all that are compared
with it, and what real images score against it is the floor.

Min Jin Chong, David Forsyth: Effectively Unbiased FID and Inception Score and Where to Find Them. 2020.
https://arxiv.org/abs/1911.07023
"""

from collections.abc import Sequence

import numpy as np

from stages.numerics import frechet
from stages.numerics.frechet import Gaussian

LEAST = 4
"""The smallest N is the number of samples divided by this."""
NUM_SIZES = 7
NUM_ROUNDS = 8
"""Times that the samples are shuffled and cut anew at each N."""


def gaussian(features: np.ndarray) -> Gaussian:
    """Of samples [N, D], N at least 2: covariance over N - 1."""
    return Gaussian(features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False)))


def sizes(num: int) -> np.ndarray:
    """The N, ascending."""
    return np.unique(np.rint(num / np.linspace(LEAST, 1, NUM_SIZES)).astype(int))


def extrapolate(features: np.ndarray, groups: np.ndarray, reference: Gaussian, seed: int) -> float:
    """FD_inf of samples float64 [N, D] in groups int [N], N at least 4 LEAST; below 0 is noise."""
    assert len(features) >= 4 * LEAST, f"{len(features)} samples"
    generator = np.random.Generator(np.random.Philox(seed))
    rounds = [features[in_turn(groups, generator)] for _ in range(NUM_ROUNDS)]
    found = sizes(len(features))
    distances = [at(rounds, reference, int(size)) for size in found]
    slope_and_value = np.polyfit(1.0 / found, distances, 1)
    return float(slope_and_value[1])


def in_turn(groups: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random order of all samples, any stretch of which holds every group in its share."""
    place = np.empty(len(groups))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        place[members] = (generator.permutation(len(members)) + generator.random(len(members))) / len(members)
    return np.argsort(place)


def at(rounds: Sequence[np.ndarray], reference: Gaussian, size: int) -> float:
    """The mean distance of stretches of this size; the whole comes once."""
    num = len(rounds[0])
    if size == num:
        return float(frechet.distance(gaussian(rounds[0]), reference))
    stretches = [one[start : start + size] for one in rounds for start in range(0, num - size + 1, size)]
    return float(np.mean([frechet.distance(gaussian(stretch), reference) for stretch in stretches]))
