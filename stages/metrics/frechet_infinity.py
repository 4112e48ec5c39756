"""Frechet distance of new images to held-out ones on the classifier's features, free of the bias of few samples.

`frechet_distance` is extrapolated to infinitely many samples (numerics/frechet_infinity.py), against all held-out
images; `frechet_distance_of_all` is the plain distance with the samples there are. Below what real images score (the
floor) nothing is to be gained. The interval resamples the new images: it tells how far another seed of the sampler
would move the distance, not another training or another test set.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from stages.numerics import bootstrap, frechet, frechet_infinity, scoring
from stages.protocols.metric import Evidence, Measure, Metric

LABEL = "digit"
"""Subsets hold each class in its share."""
LEAST = 16
"""Images on each side."""


class FrechetInfinity(Metric):
    clips: ClassVar[frozenset[str]] = frozenset({"image"})
    reads: ClassVar[frozenset[str]] = frozenset({"features", "sets"})

    def compute(self, evidence: Evidence) -> Mapping[str, Measure]:
        if not all(evidence.sets):
            return {}
        embedded = scoring.embed(evidence, *evidence.sets, paired=False)
        num = min(len(embedded.x), len(embedded.y))
        if num < LEAST:
            return {"frechet_distance": Measure(float("nan"), num=0, failures=embedded.failures)}
        held_out, made = np.concatenate(embedded.x), np.concatenate(embedded.y)
        reference = frechet_infinity.gaussian(held_out)
        groups = np.array([clip.labels.get(LABEL, -1) for clip in evidence.sets[1]])
        value = frechet_infinity.extrapolate(made, groups, reference, evidence.seed)
        plain = float(frechet.distance(frechet_infinity.gaussian(made), reference))
        weights = bootstrap.weights(len(made), scoring.num_resamples(evidence), evidence.seed)
        resampled = np.array(
            [frechet.distance(frechet_infinity.gaussian(np.repeat(made, w, 0)), reference) for w in weights]
        )
        found = bootstrap.interval(value, resampled)
        return {
            "frechet_distance": Measure(value, found.low, found.high, len(made), embedded.failures),
            "frechet_distance_of_all": Measure(plain, num=len(made), failures=embedded.failures),
        }
