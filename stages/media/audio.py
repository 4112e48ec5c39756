"""Audio clips on disk: float32 mono in memory, 16-bit FLAC in outs (the same samples, the same bytes)."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Clip:
    """One piece of sound."""

    id: str
    samples: np.ndarray
    """float32 [num_samples], mono, full scale is 1."""
    rate_hz: int

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.rate_hz


def read(file: Path | bytes, clip_id: str, start: int = 0, num_samples: int = -1) -> Clip:
    """Read a file as mono at its own rate, from its path or its bytes. ValueError where it is not readable audio."""
    import soundfile

    source = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        samples, rate_hz = soundfile.read(source, frames=num_samples, start=start, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as problem:
        name = clip_id if isinstance(file, bytes) else file
        raise ValueError(f"{name} is not readable audio: {problem}") from problem
    return Clip(clip_id, np.ascontiguousarray(samples.mean(axis=1)), int(rate_hz))


def write(path: Path, clip: Clip) -> None:
    """Write 16-bit FLAC. ValueError where a sample is not finite or beyond full scale, since it would be clipped."""
    import soundfile

    peak = float(np.abs(clip.samples).max(initial=0.0))
    if not peak <= 1.0:
        raise ValueError(f"{clip.id}: peak {peak}, expected at most 1; limit the samples before writing {path}")
    encoded = io.BytesIO()  # libsndfile itself does not say when a disk is full
    soundfile.write(encoded, clip.samples, clip.rate_hz, format="FLAC", subtype="PCM_16")
    path.write_bytes(encoded.getvalue())


def resample(clip: Clip, rate_hz: int) -> Clip:
    """The clip at another rate (soxr, very high quality)."""
    import soxr

    if rate_hz == clip.rate_hz:
        return clip
    samples = soxr.resample(clip.samples, clip.rate_hz, rate_hz, quality="VHQ")
    return Clip(clip.id, samples.astype(np.float32), rate_hz)
