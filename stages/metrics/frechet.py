"""Frechet distance on the classifier's features, of reconstructions and of new clips; lower is better.

The features of all clips of a set make one Gaussian each; d^2 is in numerics/frechet.py. It needs no pairing, so it
judges whether the sound is of the right kind, not whether it is the same. It is biased upwards by few clips and by
features that hang together within a clip: compare only equal numbers of clips, and see the baseline rows for the
distance between two halves of the originals. The interval resamples clips (a fifth as often as for the other
measures, since each resample costs two eigendecompositions); pairs are resampled together.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from stages.numerics import bootstrap, frechet, scoring
from stages.numerics.scoring import Embedded
from stages.protocols.metric import Evidence, Measure, Metric


class Frechet(Metric):
    clips: ClassVar[frozenset[str]] = frozenset({"audio"})
    reads: ClassVar[frozenset[str]] = frozenset({"features"})

    def compute(self, evidence: Evidence) -> Mapping[str, Measure]:
        found = {}
        if evidence.pairs:
            x, y = zip(*evidence.pairs, strict=True)
            embedded = scoring.embed(evidence, x, y, paired=True)
            found["reconstruction_frechet_classifier"] = between(embedded, evidence, paired=True)
        if all(evidence.sets):
            embedded = scoring.embed(evidence, *evidence.sets, paired=False)
            found["sample_frechet_classifier"] = between(embedded, evidence, paired=False)
        return found


def between(of: Embedded, evidence: Evidence, *, paired: bool) -> Measure:
    """The distance of two sets of per-clip features, which needs two clips on each side."""
    num = min(len(of.x), len(of.y))
    if num < 2:
        return Measure(float("nan"), num=0, failures=of.failures)
    x, y = frechet.sums(of.x), frechet.sums(of.y)

    def distances(weights_x: np.ndarray, weights_y: np.ndarray) -> np.ndarray:
        return frechet.distance(frechet.gaussian(x, weights_x), frechet.gaussian(y, weights_y))

    value = float(distances(np.ones((1, len(of.x))), np.ones((1, len(of.y))))[0])
    num_resamples = max(scoring.num_resamples(evidence) // 5, 1)
    weights_x = bootstrap.weights(len(of.x), num_resamples, evidence.seed)
    weights_y = weights_x if paired else bootstrap.weights(len(of.y), num_resamples, evidence.seed + 1)
    resampled = distances(weights_x, weights_y)
    found = bootstrap.interval(value, resampled)
    return Measure(value, max(found.low, 0.0), found.high, num, of.failures, resampled=tuple(resampled.tolist()))
