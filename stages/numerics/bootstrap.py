"""Intervals by resampling clips: how far would a score move on another test set of the same size?

A resample draws n clips with repetition, so clip i enters w_i times, w ~ Multinomial(n, 1/n). A statistic that can
be written in per-clip sums needs only these weights. The interval is that of the resamples' deviations,

    [value + q_(1-level)/2(d), value + q_(1+level)/2(d)],   d = resampled - mean(resampled),

since repetition biases distances between sets upwards (a set with doubled clips looks narrower than its truth), and
plain percentiles would then miss the value itself. For means of clips both are the same up to the resampling error.

Bradley Efron, Robert Tibshirani: An Introduction to the Bootstrap. 1993.
"""

from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


def weights(num_clips: int, num_resamples: int, seed: int) -> np.ndarray:
    """How often each clip enters each resample: int64 [num_resamples, num_clips], rows sum to num_clips."""
    generator = np.random.Generator(np.random.Philox(seed))
    return generator.multinomial(num_clips, np.full(num_clips, 1.0 / num_clips), size=num_resamples)


def interval(value: float, resampled: np.ndarray, level: float = LEVEL) -> Interval:
    """The interval around `value` that holds the middle `level` of the deviations of `resampled` [R], and `value`."""
    deviation = resampled - resampled.mean()
    low, high = np.quantile(deviation, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value + min(float(low), 0.0), value + max(float(high), 0.0))


def of_ratio(numerators: np.ndarray, denominators: np.ndarray, num_resamples: int, seed: int) -> Interval:
    """The interval of sum(numerators) / sum(denominators), both [num_clips]; denominators of 1 make it a mean."""
    w = weights(len(numerators), num_resamples, seed)
    value = float(numerators.sum() / denominators.sum())
    return interval(value, (w @ numerators) / (w @ denominators))
