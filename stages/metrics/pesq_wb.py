"""PESQ, wide band: predicted opinion of speech quality, 1.04 to 4.64; higher is better.

ITU-T P.862.2, as the `pesq` package has it, at 16 kHz (resampled with soxr VHQ). It is a measure of *speech*: in music
its voice detector finds "no utterances" in many clips, which are not scored but counted, and the mean of the others
swings with which they are. Read it beside `pesq_wb_gapped`, SI-SDR and the bitrate, never alone.

https://www.itu.int/rec/T-REC-P.862.2
"""

from collections.abc import Mapping
from typing import ClassVar

from stages.media import pair
from stages.media.audio import Clip
from stages.numerics import scoring
from stages.numerics.scoring import Unscored
from stages.protocols.metric import Evidence, Measure, Metric

RATE_HZ = 16000


class PesqWideBand(Metric):
    clips: ClassVar[frozenset[str]] = frozenset({"audio"})
    reads: ClassVar[frozenset[str]] = frozenset({"pairs"})

    def compute(self, evidence: Evidence) -> Mapping[str, Measure]:
        return scoring.per_clip(scores, evidence, "pesq_wb")


def scores(reference: Clip, estimate: Clip) -> dict[str, float]:
    import pesq

    x, y = pair.audible(reference, estimate, RATE_HZ)
    try:
        return {"pesq_wb": pesq.pesq(RATE_HZ, x, y, "wb")}
    except pesq.NoUtterancesError as reason:
        raise Unscored("no utterances") from reason
    except pesq.BufferTooShortError as reason:
        raise Unscored("too short") from reason
