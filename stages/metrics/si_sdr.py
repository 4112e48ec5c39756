"""Scale-invariant signal-to-distortion ratio in dB, aligned in delay and polarity; higher is better.

    SI-SDR = 10 log10(|a s|^2 / |e - a s|^2),   a = <e, s> / |s|^2

with original s and reconstruction e. The delay within +-100 ms with the largest |<e, s>| is taken out first, in whole
samples, and the overlap alone is scored; a may be negative, so polarity does not count. An exact copy has no distortion
and its ratio is infinite: such a clip is not scored, with the reason "identical".

Jonathan Le Roux et al.: SDR - half-baked or well done? 2019. https://arxiv.org/abs/1811.02508
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from scipy import fft

from stages.media import pair
from stages.media.audio import Clip
from stages.numerics import scoring
from stages.numerics.scoring import Unscored
from stages.protocols.metric import Evidence, Measure, Metric

MAX_DELAY_S = 0.1
IDENTICAL = 1e-20
"""Relative energy of the distortion: -200 dB is float64 rounding."""


class SiSdr(Metric):
    clips: ClassVar[frozenset[str]] = frozenset({"audio"})
    reads: ClassVar[frozenset[str]] = frozenset({"pairs"})

    def compute(self, evidence: Evidence) -> Mapping[str, Measure]:
        return scoring.per_clip(scores, evidence, "si_sdr_db")


def scores(reference: Clip, estimate: Clip) -> dict[str, float]:
    s, e = pair.audible(reference, estimate)
    lag = delay(s, e, min(round(MAX_DELAY_S * reference.rate_hz), len(s) // 2))
    s, e = s[max(-lag, 0) : len(s) - max(lag, 0)], e[max(lag, 0) : len(e) + min(lag, 0)]
    return {"si_sdr_db": ratio_db(s, e)}


def ratio_db(s: np.ndarray, e: np.ndarray) -> float:
    """SI-SDR of two aligned signals [num_samples]."""
    if not s.any() or not e.any():
        raise Unscored("silent overlap")
    target = (e @ s) / (s @ s) * s
    distortion = e - target
    if distortion @ distortion <= IDENTICAL * (e @ e):
        raise Unscored("identical")
    if not target.any():
        raise Unscored("uncorrelated")
    return 10.0 * float(np.log10((target @ target) / (distortion @ distortion)))


def delay(s: np.ndarray, e: np.ndarray, most: int) -> int:
    """How many samples e comes after s, within +-most: the peak of |cross-correlation|, of equals the smallest."""
    size = fft.next_fast_len(len(s) + most, real=True)
    spectrum_s, spectrum_e = (np.asarray(fft.rfft(signal, size)) for signal in (s, e))
    correlation = np.asarray(fft.irfft(spectrum_e * spectrum_s.conj(), size))
    lags = np.array(sorted(range(-most, most + 1), key=abs))
    return int(lags[np.abs(correlation[lags]).argmax()])
