"""Log-spectral distance in dB; 0 for equal signals, symmetric, lower is better.

    LSD = mean over frames of sqrt(mean over bins of (L_x - L_y)^2),   L = 10 log10(max(P, 1e-8))

P is the power of a Hann-windowed spectrum of 2048 samples, hop 512, scaled so that a full-scale sine peaks at 1: what
lies 80 dB below full scale counts as silence, or else inaudible bins would decide the score.

Augustine Gray, John Markel: Distance Measures for Speech Processing. 1976. https://doi.org/10.1109/TASSP.1976.1162849
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from stages.media import pair
from stages.media.audio import Clip
from stages.numerics import scoring, spectrum
from stages.protocols.metric import Evidence, Measure, Metric

NUM_SAMPLES = 2048
HOP = 512
FLOOR = 1e-8


class LogSpectralDistance(Metric):
    clips: ClassVar[frozenset[str]] = frozenset({"audio"})
    reads: ClassVar[frozenset[str]] = frozenset({"pairs"})

    def compute(self, evidence: Evidence) -> Mapping[str, Measure]:
        return scoring.per_clip(scores, evidence, "log_spectral_distance_db")


def scores(reference: Clip, estimate: Clip) -> dict[str, float]:
    blocks = (spectrum.magnitudes(samples, NUM_SAMPLES, HOP) for samples in pair.comparable(reference, estimate))
    per_frame = [((level_db(x) - level_db(y)) ** 2).mean(axis=1) for x, y in zip(*blocks, strict=True)]
    return {"log_spectral_distance_db": float(np.sqrt(np.concatenate(per_frame)).mean())}


def level_db(magnitude: np.ndarray) -> np.ndarray:
    """Relative to a full-scale sine."""
    return 10.0 * np.log10(np.maximum((magnitude * (4.0 / NUM_SAMPLES)) ** 2, FLOOR))
