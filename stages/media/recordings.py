"""Recordings of any length, block by block: whether a file can be read, and its sound as clips at one rate.

Nothing here holds more than one clip: a day of music costs no more memory than ten minutes of it.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stages.media.audio import Clip

BLOCK = 1 << 18  # samples read at once; fixed, since the resampler's rounding follows it
CEILING = 0.98


def duration_s(path: Path) -> float:
    """Read the whole recording and say how long it is. ValueError where it is unreadable, empty or not finite."""
    num_samples, rate_hz = 0, 1
    for samples, own_rate_hz in blocks(path):
        rate_hz = own_rate_hz
        if not np.isfinite(samples).all():
            raise ValueError("samples that are not finite")
        num_samples += len(samples)
    if num_samples == 0:
        raise ValueError("no samples")
    return num_samples / rate_hz


def clips(path: Path, piece: str, rate_hz: int, longest_s: float) -> Iterator[Clip]:
    """The recording as mono clips <piece>-0, <piece>-1 ... of `longest_s` at most, resampled as one stream.

    A clip whose peak passes full scale, which resampling can cause, is turned down to the ceiling.
    """
    longest, kept, num, k = round(longest_s * rate_hz), [], 0, 0
    for block in resampled(path, rate_hz):
        while len(block):
            part, block = block[: longest - num], block[longest - num :]
            kept.append(part)
            num += len(part)
            if num == longest:
                yield clip_of(kept, f"{piece}-{k}", rate_hz)
                kept, num, k = [], 0, k + 1
    if num:
        yield clip_of(kept, f"{piece}-{k}", rate_hz)


def clip_of(parts: list[np.ndarray], clip_id: str, rate_hz: int) -> Clip:
    samples = np.concatenate(parts)
    peak = float(np.abs(samples).max())
    return Clip(clip_id, samples * np.float32(CEILING / peak) if peak > 1.0 else samples, rate_hz)


def resampled(path: Path, rate_hz: int) -> Iterator[np.ndarray]:
    """The recording's samples at `rate_hz`, in blocks (soxr, very high quality)."""
    import soxr

    stream = None
    for samples, own_rate_hz in blocks(path):
        if own_rate_hz == rate_hz:
            yield samples
            continue
        stream = stream or soxr.ResampleStream(own_rate_hz, rate_hz, 1, dtype="float32", quality="VHQ")
        yield stream.resample_chunk(samples)
    if stream is not None:
        yield stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def blocks(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks of the recording as mono float32 [num_samples], with its rate. ValueError where it cannot be read."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            while len(samples := file.read(BLOCK, dtype="float32", always_2d=True)):
                yield np.ascontiguousarray(samples.mean(axis=1)), file.samplerate
    except soundfile.LibsndfileError as problem:
        raise ValueError(f"not readable audio: {problem.error_string}") from problem
