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
    x, y = (log_power(samples) for samples in pair.comparable(reference, estimate))
    return {"log_spectral_distance_db": float(np.sqrt(((x - y) ** 2).mean(axis=1)).mean())}


def log_power(samples: np.ndarray) -> np.ndarray:
    """DB relative to a full-scale sine, [num_frames, num_bins]."""
    amplitude = spectrum.magnitude(samples, NUM_SAMPLES, HOP) * (4.0 / NUM_SAMPLES)
    return 10.0 * np.log10(np.maximum(amplitude**2, FLOOR))
