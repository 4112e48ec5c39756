"""Multi-scale log-mel distance; 0 for equal signals, symmetric, lower is better.

    d(floor) = mean over scales of mean over cells of |ln max(M_x, floor) - ln max(M_y, floor)|

M = F |STFT|: periodic Hann windows of 256, 512, 1024 and 2048 samples with a quarter of that as hop, the magnitude not
normalised, centred on the samples with zeros beyond the ends; F the Slaney mel filters (area 1 in Hz) from 0 to half
the sample rate, 20, 40, 80 and 160 bands. A difference of 0.1 is 10 %, or 0.87 dB.

Two floors, since they answer two questions. At 1e-5 (`mel_distance`), which is where 16-bit rounding noise lies, every
faint cell counts as much as a loud one, and near silence decides. At 1e-2 (`mel_distance_loud`), 60 dB above that, the
cells that one hears do.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar

import numpy as np
from scipy.sparse import csr_array

from stages.media import pair
from stages.media.audio import Clip
from stages.numerics import scoring, spectrum
from stages.protocols.metric import Evidence, Measure, Metric

SCALES = ((256, 20), (512, 40), (1024, 80), (2048, 160))
"""Window in samples, mel bands."""
FLOORS = {"mel_distance": 1e-5, "mel_distance_loud": 1e-2}


class MelDistance(Metric):
    clips: ClassVar[frozenset[str]] = frozenset({"audio"})
    reads: ClassVar[frozenset[str]] = frozenset({"pairs"})

    def compute(self, evidence: Evidence) -> Mapping[str, Measure]:
        return scoring.per_clip(scores, evidence, *FLOORS)


def scores(reference: Clip, estimate: Clip) -> dict[str, float]:
    x, y = pair.comparable(reference, estimate)
    return distances(x, y, reference.rate_hz)


def distances(x: np.ndarray, y: np.ndarray, rate_hz: int) -> dict[str, float]:
    """The distance of two signals [num_samples] at each floor."""
    mels = [(mel(x, rate_hz, *scale), mel(y, rate_hz, *scale)) for scale in SCALES]
    return {
        name: float(np.mean([np.abs(np.log(np.maximum(a, floor) / np.maximum(b, floor))).mean() for a, b in mels]))
        for name, floor in FLOORS.items()
    }


def mel(samples: np.ndarray, rate_hz: int, num_samples: int, num_bands: int) -> np.ndarray:
    """Mel magnitudes [num_bands, num_frames]."""
    bank = filters(rate_hz, num_samples, num_bands)
    return np.concatenate([bank @ m.T for m in spectrum.magnitudes(samples, num_samples, num_samples // 4)], axis=1)


@lru_cache
def filters(rate_hz: int, num_samples: int, num_bands: int) -> csr_array:
    """Slaney mel filters float64 [num_bands, num_bins], nearly all of them 0."""
    import librosa

    return csr_array(librosa.filters.mel(sr=rate_hz, n_fft=num_samples, n_mels=num_bands, dtype=np.float64))
