"""Magnitude of the short-time Fourier transform, for measuring (models have their own, in torch).

|X[t, k]| = |sum over n of w[n] x[t hop + n - N/2] exp(-2 pi i k n / N)|,   w periodic Hann, zeros beyond the ends
"""

import numpy as np
from scipy import fft


def magnitude(samples: np.ndarray, num_samples: int, hop: int) -> np.ndarray:
    """Float64 magnitudes [num_frames, num_samples // 2 + 1], frames centred at 0, hop, 2 hop up to the end."""
    padded = np.pad(samples.astype(np.float64), num_samples // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, num_samples)[::hop]
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(num_samples) / num_samples)
    return np.abs(np.asarray(fft.rfft(frames * window, axis=-1)))
