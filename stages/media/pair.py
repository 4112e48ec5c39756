"""An original and its reconstruction, checked until they can be compared; every refusal has a reason."""

import numpy as np

from stages.media import audio
from stages.media.audio import Clip
from stages.numerics.scoring import Unscored

SILENCE = 2.0**-16
"""Half a step of 16 bits: a peak below it is written as zeros."""


def comparable(reference: Clip, estimate: Clip, rate_hz: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 [num_samples] at `rate_hz` (default: their own; soxr VHQ), equally long and finite."""
    if reference.rate_hz != estimate.rate_hz:
        raise Unscored("different sample rates")
    if len(reference.samples) != len(estimate.samples):
        raise Unscored("different lengths")
    if len(reference.samples) == 0:
        raise Unscored("too short")
    if not (np.isfinite(reference.samples).all() and np.isfinite(estimate.samples).all()):
        raise Unscored("not finite")
    pair = (reference, estimate)
    if rate_hz is not None:
        pair = tuple(audio.resample(clip, rate_hz) for clip in pair)
    return pair[0].samples.astype(np.float64), pair[1].samples.astype(np.float64)


def audible(reference: Clip, estimate: Clip, rate_hz: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """`comparable`, and neither is silence, which scores relative to a level cannot judge."""
    x, y = comparable(reference, estimate, rate_hz)
    if np.abs(x).max() < SILENCE:
        raise Unscored("silent original")
    if np.abs(y).max() < SILENCE:
        raise Unscored("silent reconstruction")
    return x, y
