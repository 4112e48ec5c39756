"""Music-like test signals, made of numbers alone."""

import numpy as np

from stages.media.audio import Clip

RATE_HZ = 24000


def chords(seed: int, duration_s: float = 4.0, decay: float = 0.0, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Four voices with eight harmonics each, a new chord every 0.75 s without a pause; float64, peak 0.5."""
    draw = np.random.Generator(np.random.Philox(seed))
    num = round(duration_s * rate_hz)
    time = np.arange(num) / rate_hz
    sound = np.zeros(num)
    for start in np.arange(0, duration_s, 0.75):
        inside = (time >= start) & (time < start + 0.75)
        local = time[inside] - start
        for base in (45, 52, 57, 64):
            pitch_hz = 440.0 * 2 ** ((base + draw.integers(0, 12) - 69) / 12)
            phases = draw.uniform(0, 2 * np.pi, 8)
            tone = sum(np.sin(2 * np.pi * pitch_hz * k * local + phases[k - 1]) / k for k in range(1, 9))
            sound[inside] += tone * np.exp(-decay * local)
    return 0.5 * sound / np.abs(sound).max(initial=1e-9)


def noise(seed: int, num_samples: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=seed + 1000)).standard_normal(num_samples)


def with_noise(samples: np.ndarray, ratio_db: float, seed: int = 0) -> np.ndarray:
    """White noise added, orthogonal to the signal, at exactly this ratio of energies."""
    n = noise(seed, len(samples))
    n -= (n @ samples) / (samples @ samples) * samples
    return samples + n * np.sqrt((samples @ samples) / (n @ n) / 10 ** (ratio_db / 10))


def clip(samples: np.ndarray, clip_id: str = "clip", rate_hz: int = RATE_HZ) -> Clip:
    return Clip(clip_id, np.asarray(samples, dtype=np.float32), rate_hz)
