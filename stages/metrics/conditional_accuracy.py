"""How many of the new images that were made for a class are read as that class; higher is better.

The reader is the classifier, which errs itself: what it scores on held-out images (image_classifier.py) is about the
most to be had. Images made for no class do not count.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from stages.numerics import bootstrap, scoring
from stages.protocols.metric import Evidence, Measure, Metric

LABEL = "digit"


class ConditionalAccuracy(Metric):
    clips: ClassVar[frozenset[str]] = frozenset({"image"})
    reads: ClassVar[frozenset[str]] = frozenset({"classify", "sets"})

    def compute(self, evidence: Evidence) -> Mapping[str, Measure]:
        assert evidence.classify is not None, "it is among what is read"
        made = [clip for clip in evidence.sets[1] if LABEL in clip.labels]
        if not made:
            return {}
        right = np.array([evidence.classify(clip) == clip.labels[LABEL] for clip in made], dtype=np.float64)
        found = bootstrap.of_ratio(right, np.ones(len(right)), scoring.num_resamples(evidence), evidence.seed)
        return {"conditional_accuracy": Measure(float(right.mean()), found.low, found.high, len(made))}
