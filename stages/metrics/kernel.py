"""Kernel distance on the classifier's features (KAD), of reconstructions and of new clips; lower is better.

    KAD = 100 * MMD^2, unbiased, Gaussian kernel, bandwidth the median distance between the originals' features

It assumes no Gaussian shape, and its mean over samples of one distribution is 0 for any number of clips, so it may be
slightly negative. Definitions and references in numerics/mmd.py. The interval resamples clips, pairs together.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from stages.numerics import bootstrap, mmd, scoring
from stages.numerics.scoring import Embedded
from stages.protocols.metric import Evidence, Measure, Metric

SCALE = 100.0


class Kernel(Metric):
    clips: ClassVar[frozenset[str]] = frozenset({"audio"})
    reads: ClassVar[frozenset[str]] = frozenset({"features"})

    def compute(self, evidence: Evidence) -> Mapping[str, Measure]:
        found = {}
        if evidence.pairs:
            x, y = zip(*evidence.pairs, strict=True)
            embedded = scoring.embed(evidence, x, y, paired=True)
            found["reconstruction_kernel_classifier"] = between(embedded, evidence, paired=True)
        if all(evidence.sets):
            embedded = scoring.embed(evidence, *evidence.sets, paired=False)
            found["sample_kernel_classifier"] = between(embedded, evidence, paired=False)
        return found


def between(of: Embedded, evidence: Evidence, *, paired: bool) -> Measure:
    """The distance of two sets of per-clip features, which needs two clips on each side."""
    num = min(len(of.x), len(of.y))
    if num < 2:
        return Measure(float("nan"), num=0, failures=of.failures)
    blocks = mmd.blocks(of.x, of.y)
    value = SCALE * float(mmd.estimate(blocks, np.ones((1, len(of.x))), np.ones((1, len(of.y))))[0])
    num_resamples = scoring.num_resamples(evidence)
    weights_x = bootstrap.weights(len(of.x), num_resamples, evidence.seed)
    weights_y = weights_x if paired else bootstrap.weights(len(of.y), num_resamples, evidence.seed + 1)
    resampled = SCALE * mmd.estimate(blocks, weights_x, weights_y)
    found = bootstrap.interval(value, resampled)
    return Measure(value, found.low, found.high, num, of.failures, resampled=tuple(resampled.tolist()))
