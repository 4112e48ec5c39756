"""Magnitude of the short-time Fourier transform, for measuring (models have their own, in torch).

    |X[t, k]| = |sum over n of w[n] x[t hop + n - N/2] exp(-2 pi i k n / N)|,   w periodic Hann, zeros beyond the ends

It comes in blocks of frames that fit a processor's cache: several times as fast as one array for a whole clip.
"""

from collections.abc import Iterator

import numpy as np
from scipy import fft

BLOCK = 1 << 15
"""Samples of windowed frames at a time."""


def magnitudes(samples: np.ndarray, num_samples: int, hop: int) -> Iterator[np.ndarray]:
    """Blocks of float64 [num_frames, num_samples // 2 + 1]; frames are centred at 0, hop, 2 hop ... up to the end."""
    padded = np.pad(samples.astype(np.float64), num_samples // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, num_samples)[::hop]
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(num_samples) / num_samples)
    size = max(BLOCK // num_samples, 1)
    for start in range(0, len(frames), size):
        yield np.abs(np.asarray(fft.rfft(frames[start : start + size] * window, axis=-1)))
