"""Maximum mean discrepancy with a Gaussian kernel: a distance of two sets that assumes no Gaussian shape.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),   k(a, b) = exp(-|a - b|^2 / (2 h^2))

The unbiased estimate leaves out k(x_i, x_i), so two samples of one distribution average to 0 and may go below it; the
bandwidth h is the median distance between reference features. Kernel values are summed per pair of clips, which is
all that resampled clips need.

Arthur Gretton et al.: A Kernel Two-Sample Test. JMLR 2012. https://jmlr.org/papers/v13/gretton12a.html
Yoonjin Chung et al.: KAD: No More FAD! 2025. https://arxiv.org/abs/2502.15602
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist, pdist


@dataclass(frozen=True)
class Blocks:
    """Kernel values summed over the features of each pair of clips, float64, and features per clip."""

    within_x: np.ndarray  # [C, C], k(x_i, x_i) left out
    within_y: np.ndarray  # [C', C'], likewise
    between: np.ndarray  # [C, C']
    num_x: np.ndarray  # [C]
    num_y: np.ndarray  # [C']


def bandwidth(reference: np.ndarray) -> float:
    """The median distance between features [N, D]; 1 where they are all equal."""
    return float(np.median(pdist(reference))) or 1.0


def blocks(x: list[np.ndarray], y: list[np.ndarray]) -> Blocks:
    """Kernel sums of two lists of per-clip features [N, D]; x is the reference."""
    h = bandwidth(np.concatenate(x))
    within_x, within_y, between = (_sums(a, b, h) for a, b in ((x, x), (y, y), (x, y)))
    num_x, num_y = (np.array([len(item) for item in side], dtype=np.float64) for side in (x, y))
    within_x[np.diag_indices(len(x))] -= num_x  # k(x_i, x_i) = 1
    within_y[np.diag_indices(len(y))] -= num_y
    return Blocks(within_x, within_y, between, num_x, num_y)


def estimate(of: Blocks, weights_x: np.ndarray, weights_y: np.ndarray) -> np.ndarray:
    """Unbiased MMD^2 of clips weighted by [R, C] and [R, C']: float64 [R]."""
    n, m = weights_x @ of.num_x, weights_y @ of.num_y
    own_x = np.einsum("rc,cd,rd->r", weights_x, of.within_x, weights_x, optimize=True) / (n * (n - 1))
    own_y = np.einsum("rc,cd,rd->r", weights_y, of.within_y, weights_y, optimize=True) / (m * (m - 1))
    cross = np.einsum("rc,cd,rd->r", weights_x, of.between, weights_y, optimize=True) / (n * m)
    return own_x + own_y - 2.0 * cross


def _sums(a: list[np.ndarray], b: list[np.ndarray], h: float) -> np.ndarray:
    values = np.exp(-cdist(np.concatenate(a), np.concatenate(b), "sqeuclidean") / (2.0 * h**2))
    starts_a, starts_b = (np.cumsum([0, *(len(item) for item in side)])[:-1] for side in (a, b))
    return np.add.reduceat(np.add.reduceat(values, starts_a, axis=0), starts_b, axis=1)
