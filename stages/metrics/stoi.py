"""Short-time objective intelligibility: correlation of third-octave envelopes, up to 1; higher is better.

Made for *speech*; on music it says how well slow envelopes below 5 kHz survive. `pystoi` at its own rate of 10 kHz
(resampled with soxr VHQ beforehand, which is faster than its own resampler). Clips with too little sound above -40 dB
of their loudest frame are not scored.

Cees Taal et al.: An Algorithm for Intelligibility Prediction of Time-Frequency Weighted Noisy Speech. 2011.
https://doi.org/10.1109/TASL.2011.2114881
"""

import warnings
from collections.abc import Mapping
from typing import ClassVar

from stages.media import pair
from stages.media.audio import Clip
from stages.numerics import scoring
from stages.numerics.scoring import Unscored
from stages.protocols.metric import Evidence, Measure, Metric

RATE_HZ = 10000
MIN_DURATION_S = 0.4
"""STOI's segments are 384 ms long."""


class Stoi(Metric):
    clips: ClassVar[frozenset[str]] = frozenset({"audio"})
    reads: ClassVar[frozenset[str]] = frozenset({"pairs"})

    def compute(self, evidence: Evidence) -> Mapping[str, Measure]:
        return scoring.per_clip(scores, evidence, "stoi")


def scores(reference: Clip, estimate: Clip) -> dict[str, float]:
    import pystoi

    x, y = pair.audible(reference, estimate, RATE_HZ)
    if len(x) < MIN_DURATION_S * RATE_HZ:
        raise Unscored("too short")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi warns and returns 1e-5
        try:
            return {"stoi": float(pystoi.stoi(x, y, RATE_HZ))}
        except RuntimeWarning as reason:
            raise Unscored("too little sound") from reason
