"""Frechet distance of two Gaussians: the Wasserstein-2 distance, squared.

    d^2 = |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1^1/2 S2 S1^1/2)^1/2)

S1 S2 is not symmetric and its matrix root may come out complex; S1^1/2 S2 S1^1/2 has the same eigenvalues, is symmetric
and positive semidefinite, so `eigh` in float64 gives them, and rounding errors below zero are clipped.

D. C. Dowson, B. V. Landau: The Frechet distance between multivariate normal distributions. 1982.
Kevin Kilgour et al.: Frechet Audio Distance. 2019. https://arxiv.org/abs/1812.08466
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Gaussian:
    """Means float64 [..., D] and covariances float64 [..., D, D]; leading axes are a batch."""

    mean: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True)
class Sums:
    """What a Gaussian needs to know of each clip, so that resampled clips cost one matrix product."""

    num: np.ndarray  # float64 [C]
    first: np.ndarray  # float64 [C, D]
    second: np.ndarray  # float64 [C, D, D]


def sums(features: list[np.ndarray]) -> Sums:
    """Per-clip sums of features [N, D] each, about their common mean, so that no digits are lost."""
    centre = np.concatenate(features).mean(axis=0)
    centred = [item.astype(np.float64) - centre for item in features]
    num = np.array([len(item) for item in features], dtype=np.float64)
    first = np.stack([item.sum(axis=0) + len(item) * centre for item in centred])
    return Sums(num, first, np.stack([item.T @ item for item in centred]))


def gaussian(of: Sums, weights: np.ndarray) -> Gaussian:
    """The Gaussians of clips weighted by `weights` [R, C]: means [R, D], covariances over N - 1 [R, D, D]."""
    num = weights @ of.num
    mean = (weights @ of.first) / num[:, None]
    centre = of.first.sum(axis=0) / of.num.sum()
    offset = mean - centre
    second = np.tensordot(weights.astype(np.float64), of.second, axes=1)
    outer = offset[:, :, None] * offset[:, None, :]
    return Gaussian(mean, (second - num[:, None, None] * outer) / (num - 1)[:, None, None])


def distance(one: Gaussian, other: Gaussian) -> np.ndarray:
    """The squared distance, shape of the leading axes; 0 for equal Gaussians, symmetric, never negative."""
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    product = root @ other.covariance @ root
    product = (product + np.swapaxes(product, -1, -2)) / 2
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(product), 0.0, None)).sum(axis=-1)
    traces = np.trace(one.covariance, axis1=-2, axis2=-1) + np.trace(other.covariance, axis1=-2, axis2=-1)
    between = ((one.mean - other.mean) ** 2).sum(axis=-1)
    return np.clip(between + traces - 2.0 * cross, 0.0, None)
