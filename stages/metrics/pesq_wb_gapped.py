"""PESQ of music with pauses: 1 s of silence is inserted after every 2 s in both signals. Not the standard.

PESQ's voice detector needs pauses to find "utterances" between them, and music seldom has any: half of such clips have
no score. With gaps at the same places in original and reconstruction every clip has one, and it follows SI-SDR. The
last segment has its gap too: without it, an eighth of plucked music still fails. The
score is comparable only with other gapped scores. Wide band, 16 kHz, soxr VHQ, as in `pesq_wb`; the gaps are inserted
after resampling.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from stages.media import pair
from stages.media.audio import Clip
from stages.numerics import scoring
from stages.numerics.scoring import Unscored
from stages.protocols.metric import Evidence, Measure, Metric

RATE_HZ = 16000
SEGMENT_S = 2.0
GAP_S = 1.0
MIN_DURATION_S = 0.25
"""PESQ's own limit, of the sound without gaps."""


class PesqWideBandGapped(Metric):
    clips: ClassVar[frozenset[str]] = frozenset({"audio"})
    reads: ClassVar[frozenset[str]] = frozenset({"pairs"})

    def compute(self, evidence: Evidence) -> Mapping[str, Measure]:
        return scoring.per_clip(scores, evidence, "pesq_wb_gapped")


def scores(reference: Clip, estimate: Clip) -> dict[str, float]:
    import pesq

    x, y = pair.audible(reference, estimate, RATE_HZ)
    if len(x) < MIN_DURATION_S * RATE_HZ:
        raise Unscored("too short")
    try:
        return {"pesq_wb_gapped": pesq.pesq(RATE_HZ, with_gaps(x), with_gaps(y), "wb")}
    except pesq.NoUtterancesError as reason:
        raise Unscored("no utterances") from reason


def with_gaps(samples: np.ndarray) -> np.ndarray:
    """Segments of 2 s, the last one what is left, each followed by 1 s of silence."""
    segments = np.split(samples, range(round(SEGMENT_S * RATE_HZ), len(samples), round(SEGMENT_S * RATE_HZ)))
    gap = np.zeros(round(GAP_S * RATE_HZ), samples.dtype)
    return np.concatenate([part for segment in segments for part in (segment, gap)])
